"""skipstone chat: a conversation in the terminal."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from skipstone.cli.command import unfold
from skipstone.cli.generation import DraftFlags, LengthFlags, SamplingFlags, given
from skipstone.cli.options import (
    AllowSpecialOption,
    BundleArgument,
    ContextOption,
    JsonOption,
    Place,
    PrefillChoice,
    PrefillOption,
    PromptCacheOption,
    QuietOption,
    require_lossless,
    told_context,
)
from skipstone.cli.standard_input import require_input
from skipstone.cli.talk import TOLD, Editor, Lines, Source, Talk, can_edit
from skipstone.cli.terminal import notes

NAME = "chat"
EXAMPLES = """\b
Examples:
  skipstone chat my-bundle --system "Answer in one sentence."
  skipstone chat model.gguf --temperature 0.3
  skipstone chat my-bundle --json < questions.txt
  skipstone chat pebble --sampling greedy --max-new-tokens 40"""

INPUT_ADVICE = "a chat reads its messages there"
HISTORY = "chat_history"


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
    allow_special: AllowSpecialOption = False,
    as_json: JsonOption = False,
    plain: Annotated[bool, typer.Option("--plain", help="Show answers as they are, Markdown not rendered.")] = False,
    no_history: Annotated[bool, typer.Option("--no-history", help="Forget what was typed when the talk ends.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Talk to a model.

    Tokens are chosen as the model recommends. Each turn computes only its new tokens. On a terminal /help lists the
    commands; Ctrl-C stops an answer, Ctrl-D ends the talk. Elsewhere each line of standard input is a message; with
    --json each answer is one line with a JSON object, and a message may be one too: {"content": "..."}.
    """
    from skipstone.options import chat_options

    require_lossless(drafts.decode.split(","), "chat")
    named = given(length, drafts, sampling)
    chat_options(**named)  # a wrong value is refused before the model is loaded
    require_input(INPUT_ADVICE)
    loading = drafts.for_loading() | {"prefill": prefill.value, "allow_special": allow_special}
    model = place.load(bundle, decode=drafts.decode, num_tokens=context, **loading)
    options = chat_options(recommended=model.runtime.manifest.sampling, **named).seeded()
    console, cache = notes(quiet=quiet), None if prompt_cache is None else model.prompt_cache(prompt_cache)
    context = told_context(context, model.runtime.room(), quiet=quiet)
    conversation = model.chat(system=system, context_length=context, on_full=on_full.value, prompt_cache=cache)
    if model.runtime.chat_template is None:
        console.print(f"{bundle} has no chat template: it continues the bare text of all turns")
    talk = Talk(
        model,
        conversation,
        options,
        console,
        cache=cache,
        stops=on_full is OnFullName.stop,
        plain=plain,
        as_json=as_json,
        quiet=quiet,
    )
    is_typed = not as_json and can_edit()
    if is_typed:
        console.print("/help lists the commands, Ctrl-D leaves", style="dim")
    talk.run(_source(is_typed=is_typed, as_json=as_json, no_history=no_history), takes_commands=is_typed)


def _source(*, is_typed: bool, as_json: bool, no_history: bool) -> Source:
    """Return where messages come from."""
    if not is_typed:
        return JsonLines(INPUT_ADVICE) if as_json else Lines(INPUT_ADVICE)
    from skipstone.bundled import cache_folder

    return Editor(TOLD, None if no_history else cache_folder() / HISTORY)


class JsonLines(Lines):
    """Messages of a program: a line is a text, or a JSON string, or a JSON object with the `content`."""

    def read(self) -> str | None:
        """Return the next message, None behind the last."""
        line = super().read()
        if line is None or line[:1] not in ('"', "{"):
            return line
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return line
        content = told.get("content") if isinstance(told, dict) else told
        return content if isinstance(content, str) else line
