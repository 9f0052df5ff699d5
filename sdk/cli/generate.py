"""skipstone generate: a prompt becomes text."""

from __future__ import annotations

from typing import Annotated

import typer

from skipstone.cli.asking import AskingFlags, joined
from skipstone.cli.command import unfold
from skipstone.cli.generation import DecodingFlags, DraftFlags, LengthFlags, SamplingFlags, given
from skipstone.cli.options import (
    BundleArgument,
    ContextOption,
    Place,
    PrefillChoice,
    PrefillOption,
    PromptCacheOption,
    told_context,
)
from skipstone.cli.reading import ReadingLine
from skipstone.cli.showing import Showing, write_samples, write_text
from skipstone.cli.standard_input import read_document, read_prompt
from skipstone.cli.terminal import notes
from skipstone.errors import ConfigError

NAME = "generate"
EXAMPLES = """\b
Examples:
  skipstone generate my-bundle -p "What is the capital of France?"
  skipstone generate my-bundle -p "Summarize in two sentences:" < paper.txt
  skipstone generate pebble -p "def fibonacci(n):"
  skipstone generate pebble --temperature 0.7 --seed 1 --json < prompt.txt
  skipstone generate pebble -p "class Stack:" --decode suffix,recycle --stats
  skipstone generate my-bundle -p "x = " --decode exit --min-agreement 0.98
  skipstone generate my-bundle --prompt-cache rules.cache < rules-and-question.txt"""


LETTERS_A_TOKEN = 4


@unfold
def run(
    bundle: BundleArgument,
    asking: AskingFlags,
    length: LengthFlags,
    drafts: DraftFlags,
    decoding: DecodingFlags,
    sampling: SamplingFlags,
    place: Place,
    showing: Showing,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Question or text; default: standard input.")
    ] = None,
    context: ContextOption = None,
    prompt_cache: PromptCacheOption = None,
    prefill: PrefillOption = PrefillChoice.auto,
) -> None:
    """Answer a question, or continue a text; what comes goes to standard output as it comes.

    A model with a chat template is asked as a user asks it, unless --raw is given; others continue the text. With -p,
    what is piped or redirected to standard input is put behind the prompt.
    Drafters: ngram, suffix, recycle, jacobi, lookahead; model, async-model, tree, staged, big-little with a small
    model; self, free, skip with exits or stages. They keep plain decoding's text bit by bit, and draft as long as
    that can be; tree and lookahead, with int4 and int8, take --no-exact. --stats says what a text is.
    Approximate: exit, adaptive, skipdecode, switch, cascade, and big-little with --dial; `skipstone tune` calibrates
    them, `skipstone eval method` shows what they cost and bring.
    Other texts of small models, with --dial: momentum leaves loops, adadec looks ahead where the model is unsure,
    cautious keeps the likeliest of several trials.
    """
    from skipstone.options import generation_options
    from skipstone.runtime.text import CHAT_STOP_LOOPS

    showing.require_possible(drafts.decode, complete_words=decoding.complete_words)
    asking.require_possible(complete_words=decoding.complete_words)
    if prompt_cache is not None and showing.samples > 1:
        raise ConfigError("--prompt-cache is for one text, and samples read their prompt once; leave one of them out")
    loading = drafts.for_loading() | {"allow_special": asking.allow_special}
    options = {**given(length, drafts, decoding, sampling), "logprobs": showing.logprobs}
    generation_options(**options)  # a wrong value is refused before the model is loaded
    text = read_prompt(None) if prompt is None else joined(prompt, read_document(quiet=showing.quiet))
    num_tokens = _expected_tokens(context, text, length)
    model = place.load(bundle, decode=drafts.decode, num_tokens=num_tokens, prefill=prefill.value, **loading)
    put = asking.put(model, bundle, text, complete_words=decoding.complete_words)
    options |= {"stop": (*(options.get("stop") or ()), *put.stop)}
    if put.is_question:
        options["stop_loops"] = CHAT_STOP_LOOPS if length.stop_loops is None else length.stop_loops
    rows = 1 if showing.samples == 1 else 2
    room = model.room(model.encode(put.prompt), generation_options(**options), num_rows=rows)
    options["context_length"] = told_context(context, room, quiet=showing.quiet)
    cache = None if prompt_cache is None else model.prompt_cache(prompt_cache)
    with ReadingLine(quiet=showing.quiet) as line:
        options |= {"on_prompt": line, "on_measuring": line.on_measuring}
        if showing.samples > 1:
            write_samples(model, model.samples(put.prompt, showing.samples, **options), showing)
        else:
            write_text(model, put.prompt, {**options, "prompt_cache": cache}, showing, why_empty=put.why_empty)
    if cache is not None:
        notes(quiet=showing.quiet).print("\n".join(cache.told()) or "prompt cache: nothing to read or to keep")


def _expected_tokens(context: int | None, text: str, length: LengthFlags) -> int:
    """Return about how many tokens a text will have, before there is a tokenizer: by `--context`, else by letters."""
    return context or len(text) // LETTERS_A_TOKEN + (length.max_new_tokens or 0)
