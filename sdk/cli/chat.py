"""skipstone chat: a conversation in the terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from skipstone.cli.command import unfold
from skipstone.cli.generation import DraftFlags, LengthFlags, SamplingFlags, given
from skipstone.cli.options import (
    BundleArgument,
    ContextOption,
    Place,
    PrefillChoice,
    PrefillOption,
    PromptCacheOption,
    QuietOption,
    require_lossless,
    told_context,
)
from skipstone.cli.standard_input import read_line, require_input
from skipstone.cli.terminal import notes, write
from skipstone.errors import CacheFull, TextError

if TYPE_CHECKING:
    from rich.console import Console

    from skipstone.conversation import Conversation
    from skipstone.runtime.generation import GenerationOptions

NAME = "chat"
EXAMPLES = """\b
Examples:
  skipstone chat my-bundle --system "Answer in one sentence."
  skipstone chat pebble --sampling greedy --max-new-tokens 40"""

INPUT_ADVICE = "a chat reads its messages there"
NUM_SEEDS = 2**64  # seeds lie below


class OnFullName(StrEnum):
    drop = "drop"
    stop = "stop"


@unfold
def run(
    bundle: BundleArgument,
    length: LengthFlags,
    drafts: DraftFlags,
    sampling: SamplingFlags,
    place: Place,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told first.")
    ] = None,
    context: ContextOption = None,
    on_full: Annotated[
        OnFullName, typer.Option(help="When the context is full: drop the oldest turns, or stop the talk.")
    ] = OnFullName.drop,
    prompt_cache: PromptCacheOption = None,
    prefill: PrefillOption = PrefillChoice.auto,
    quiet: QuietOption = False,
) -> None:
    """Talk to a model.

    Tokens are chosen as the model recommends. Each turn computes only its new tokens. Ctrl-C stops an answer, Ctrl-D
    ends the talk.
    """
    from skipstone.options import chat_options

    require_lossless(drafts.decode.split(","), "chat")
    named = given(length, drafts, sampling)
    chat_options(**named)  # a wrong value is refused before the model is loaded
    require_input(INPUT_ADVICE)
    model = place.load(bundle, decode=drafts.decode, num_tokens=context, prefill=prefill.value, **drafts.for_loading())
    options = chat_options(recommended=model.runtime.manifest.sampling, **named).seeded()
    console, cache = notes(quiet=quiet), None if prompt_cache is None else model.prompt_cache(prompt_cache)
    context = told_context(context, model.runtime.room(), quiet=quiet)
    conversation = model.chat(system=system, context_length=context, on_full=on_full.value, prompt_cache=cache)
    if model.runtime.chat_template is None:
        console.print(f"{bundle} has no chat template: it continues the bare text of all turns")
    told, num_turns = False, 0
    while (text := _ask(console.is_terminal and not quiet)) is not None:
        if text.strip():
            of_turn = _seeded_for(num_turns, options)
            num_turns += _try_to_answer(conversation, text, of_turn, console, stops=on_full is OnFullName.stop)
            if cache is not None and num_turns == 1:
                for line in cache.told():
                    console.print(line, style="dim")
                cache = None
        if conversation.num_dropped and not told:
            told = True
            full = f"the context of {conversation.context_length} tokens is full"
            console.print(f"{full}: the oldest turns leave, from now on too; --on-full stop ends the talk there")


def _try_to_answer(
    conversation: Conversation, text: str, options: GenerationOptions, console: Console, *, stops: bool
) -> bool:
    """Answer `text`, and return whether it could be: say why where it is no text or does not fit.

    Raises: CacheFull only when the talk `stops` there.
    """
    try:
        _answer(conversation, text, options, console)
    except (CacheFull, TextError) as error:
        if stops and isinstance(error, CacheFull):
            raise
        sys.stderr.write(f"skipstone: {error}\n")
        return False
    return True


def _seeded_for(num_turns: int, options: GenerationOptions) -> GenerationOptions:
    """Return the options of the turn behind so many: the first seed and one more for each, so that noise differs."""
    first = options.sampling.seed
    if first is None:
        return options
    return replace(options, sampling=replace(options.sampling, seed=(first + num_turns) % NUM_SEEDS))


def _answer(conversation: Conversation, text: str, options: GenerationOptions, console: Console) -> None:
    """Write the answer to `text` as it comes, and its speed."""
    piece = None
    try:
        for piece in conversation.stream(text, options):
            write(piece.text)
    except KeyboardInterrupt:
        write("\n")
        console.print("stopped", style="dim")
        return
    write("\n")
    if piece is not None and (stats := piece.stats) is not None:
        speed = f"{stats.new_tokens} tokens at {stats.decode_tokens_per_s:.1f}/s"
        seed = "" if stats.seed is None else f", seed {stats.seed}"
        console.print(f"{speed}, first after {stats.ttft_s:.2f} s{seed}", style="dim")
    if piece is not None and piece.finish_reason == "loop":
        console.print("the answer fell into a loop and was ended; --stop-loops 0 lets it run", style="dim")


def _ask(prompted: bool) -> str | None:
    """Return the next line of the user, or None at the end of input."""
    if prompted:
        sys.stderr.write("> ")
        sys.stderr.flush()
    return read_line(INPUT_ADVICE)
