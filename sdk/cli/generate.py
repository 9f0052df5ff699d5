"""skipstone generate: a prompt becomes text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from skipstone.cli.command import unfold
from skipstone.cli.drafts import DepthPainter, DraftPainter, speed_line, stats_table
from skipstone.cli.generation import DecodingFlags, DraftFlags, LengthFlags, SamplingFlags, given
from skipstone.cli.options import (
    BundleArgument,
    ContextOption,
    Place,
    PrefillChoice,
    PrefillOption,
    Printing,
    PromptCacheOption,
    told_context,
)
from skipstone.cli.reading import ReadingLine
from skipstone.cli.standard_input import read_prompt
from skipstone.cli.terminal import notes, print_json, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.generation import Generation, Piece, Stats
    from skipstone.runtime.methods import Method

NAME = "generate"
EXAMPLES = """\b
Examples:
  skipstone generate pebble -p "def fibonacci(n):"
  skipstone generate pebble --temperature 0.7 --seed 1 --json < prompt.txt
  skipstone generate pebble -p "class Stack:" --decode suffix,recycle --stats
  skipstone generate my-bundle -p "x = " --decode exit --min-agreement 0.98
  skipstone generate my-bundle --prompt-cache rules.cache < rules-and-question.txt"""


LETTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing(Printing):
    """What is shown beside a text."""

    panel: ClassVar[str] = "Output"
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --json: the N likeliest tokens at each position.")
    ] = None
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Texts to make, with the seeds from --seed on.")] = 1
    stats: Annotated[bool, typer.Option("--stats", help="Show what each drafter guessed and where the time went.")] = (
        False
    )
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Colour guessed tokens by their drafter.")] = False
    show_depth: Annotated[
        bool, typer.Option("--show-depth", help="Colour tokens by the layers that made them, where not all did.")
    ] = False

    def require_possible(self, decode: str, *, complete_words: bool) -> None:
        """Raise ConfigError for figures and colours that do not go together, or not with the method."""
        if self.logprobs is not None and not self.as_json:
            raise ConfigError("--logprobs is shown with --json only; add --json")
        if (self.show_drafts or self.stats) and (self.as_json or self.samples > 1):
            raise ConfigError("--stats and --show-drafts are for one text on the terminal; --json holds all figures")
        if complete_words and (self.show_drafts or self.show_depth):
            raise ConfigError(
                "--show-drafts and --show-depth colour whole tokens, --complete-words begins inside one; leave it out"
            )
        if self.show_depth and (self.as_json or self.samples > 1 or self.show_drafts):
            other = "--json" if self.as_json else "--samples" if self.samples > 1 else "--show-drafts"
            raise ConfigError(f"--show-depth is for one text on the terminal; leave {other} out")
        if self.show_depth and decode not in (shallow := _shallow_methods()):
            known = ", ".join(shallow)
            raise ConfigError(
                f"--show-depth colours what part of the layers made; --decode {decode} uses all, not {known}"
            )

    def painter(self, model: LanguageModel, *, decode: str, last_id: int) -> DraftPainter | DepthPainter | None:
        """Return what colours the tokens behind a prompt that ends with `last_id`, None for plain text."""
        if self.show_depth:
            return DepthPainter(model.runtime, last_id=last_id, little=_shallow_methods()[decode].uses_draft_model)
        return DraftPainter(model.runtime, last_id=last_id) if self.show_drafts else None


def _shallow_methods() -> dict[str, Method]:
    """Return the methods whose tokens may come from part of the layers, or from the draft model alone."""
    from skipstone.runtime.methods import approximate_methods

    return {name: method for name, method in approximate_methods().items() if method.leaves_out_layers}


@unfold
def run(
    bundle: BundleArgument,
    length: LengthFlags,
    drafts: DraftFlags,
    decoding: DecodingFlags,
    sampling: SamplingFlags,
    place: Place,
    showing: Showing,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue; default: standard input.")
    ] = None,
    context: ContextOption = None,
    prompt_cache: PromptCacheOption = None,
    prefill: PrefillOption = PrefillChoice.auto,
) -> None:
    """Continue a prompt; the text goes to standard output as it comes.

    Drafters: ngram, suffix, recycle, jacobi, lookahead; model, async-model, tree, staged, big-little with a small
    model; self, free, skip with exits or stages. They keep plain decoding's text, with int4 and int8 tree and
    lookahead up to near ties only; --stats says how near a text is.
    Approximate: exit, adaptive, skipdecode, switch, cascade, and big-little with --dial; `skipstone tune` calibrates
    them, `skipstone eval method` shows what they cost and bring.
    Other texts of small models, with --dial: momentum leaves loops, adadec looks ahead where the model is unsure,
    cautious keeps the likeliest of several trials.
    """
    from skipstone.options import generation_options

    showing.require_possible(drafts.decode, complete_words=decoding.complete_words)
    if prompt_cache is not None and showing.samples > 1:
        raise ConfigError("--prompt-cache is for one text, and samples read their prompt once; leave one of them out")
    loading = drafts.for_loading()
    options = {**given(length, drafts, decoding, sampling), "logprobs": showing.logprobs}
    generation_options(**options)  # a wrong value is refused before the model is loaded
    text = read_prompt(prompt)
    num_tokens = _expected_tokens(context, text, length)
    model = place.load(bundle, decode=drafts.decode, num_tokens=num_tokens, prefill=prefill.value, **loading)
    rows = 1 if showing.samples == 1 else 2
    room = model.room(model.encode(text), generation_options(**options), num_rows=rows)
    options["context_length"] = told_context(context, room, quiet=showing.quiet)
    cache = None if prompt_cache is None else model.prompt_cache(prompt_cache)
    with ReadingLine(quiet=showing.quiet) as line:
        options |= {"on_prompt": line, "on_measuring": line.on_measuring}
        if showing.samples > 1:
            made = model.samples(text, showing.samples, **options)
            _write_samples(made, showing)
        elif showing.as_json:
            print_json(model.generate(text, prompt_cache=cache, **options).to_json())
        else:
            _write_text(model, text, {**options, "prompt_cache": cache}, showing)
    if cache is not None:
        notes(quiet=showing.quiet).print("\n".join(cache.told()) or "prompt cache: nothing to read or to keep")


def _expected_tokens(context: int | None, text: str, length: LengthFlags) -> int:
    """Return about how many tokens a text will have, before there is a tokenizer: by `--context`, else by letters."""
    return context or len(text) // LETTERS_A_TOKEN + (length.max_new_tokens or 0)


def _write_text(model: LanguageModel, text: str, options: dict[str, Any], showing: Showing) -> None:
    pieces, console = model.stream(text, **options), notes(quiet=showing.quiet)
    painter = showing.painter(model, decode=options["decode"], last_id=model.encode(text)[-1])
    stats = _print(pieces, painter)
    console.print(speed_line(stats))
    if stats.approximate is not None:
        console.print(f"approximate: {stats.approximate}")
    if painter is not None:
        console.print(painter.legend())
    if showing.stats:
        console.print(stats_table(stats))
        if model.cache_choice is not None:
            console.print(model.cache_choice.told)


def _print(pieces: Iterator[Piece], painter: DraftPainter | DepthPainter | None) -> Stats:
    """Write the text as it comes and return what it cost."""
    stats = None
    for piece in pieces:
        write(piece.text if painter is None else painter.paint(piece))
        stats = piece.stats
    write("\n")
    assert stats is not None, "the last piece says what the text cost"
    return stats


def _write_samples(made: Iterator[Generation], showing: Showing) -> None:
    if showing.as_json:
        print_json([generation.to_json() for generation in made])
        return
    console = notes(quiet=showing.quiet)
    for generation in made:
        console.print(f"seed {generation.stats.seed}: {speed_line(generation.stats)}")
        if generation.stats.approximate is not None:
            console.print(f"approximate: {generation.stats.approximate}")
        write(generation.text + "\n")
