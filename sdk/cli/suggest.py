"""skipstone suggest: several short drafts of what follows a text."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, ContextOption, Place, Printing, told_context
from skipstone.cli.standard_input import read_prompt
from skipstone.cli.terminal import notes, print_json, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.suggest import Suggestion

NAME = "suggest"
EXAMPLES = """\b
Examples:
  skipstone suggest pebble -p "import os; impor"
  skipstone suggest pebble -p "def read_json(" -k 5 -n 6 --method superposed
  skipstone suggest my-bundle --ngrams my.ngrams --json < text.txt
  skipstone suggest pebble --interactive"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFlags:
    """How many drafts are made, how long, and in which way; the fields are the options of `model.suggest`."""

    num_drafts: Annotated[int, typer.Option("--num-drafts", "-k", metavar="K", min=1, help="How many drafts.")] = 3
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Most tokens of a draft.")
    ] = 10
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="auto, superposed, branch, beam, diverse or contrast.")
    ] = "auto"
    ngrams: Annotated[
        str | None,
        typer.Option(
            "--ngrams",
            metavar="STORE",
            help="Counts that `skipstone ngrams` made, for superposed; pebble: those of its code.",
        ),
    ] = None
    complete_words: Annotated[
        bool | None,
        typer.Option(
            "--complete-words/--no-complete-words",
            help="End the word first in which the prompt ends; by default where the vocabulary allows it.",
        ),
    ] = None
    context_length: ContextOption = None


@unfold
def run(
    bundle: BundleArgument,
    drafts: DraftFlags,
    place: Place,
    printing: Printing,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue; default: standard input.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Suggest while you type; Tab takes a draft, Ctrl-D ends.")
    ] = False,
) -> None:
    """Suggest several drafts of what follows a text.

    The table goes to standard output, the best draft first, the way and its time to standard error. A score is the
    mean log probability of a draft's tokens, or what superposed drafts have in its place.
    """
    from skipstone.runtime.suggest import way_named

    way_named(drafts.method)
    if interactive:
        _require_terminal(printing)
    text = (prompt or "") if interactive else read_prompt(prompt)
    model = place.load(bundle, num_tokens=drafts.context_length)
    needed = 0 if interactive or not text else len(model.encode(text)) + drafts.max_new_tokens
    room = model.runtime.room(num_tokens=needed)
    drafts = replace(drafts, context_length=told_context(drafts.context_length, room, quiet=printing.quiet))
    if interactive:
        from skipstone.cli.interactive import type_with

        write(type_with(model.suggester(**asdict(drafts)), text))
    else:
        _suggest(model, text, drafts, printing)


def _suggest(model: LanguageModel, text: str, flags: DraftFlags, printing: Printing) -> None:
    """Print the drafts, the way and its time."""
    from skipstone.runtime.suggest import is_chosen

    options, start = asdict(flags), time.perf_counter()
    drafts = model.suggest(text, **options)
    milliseconds = (time.perf_counter() - start) * 1000
    if printing.as_json:
        print_json([draft.to_json() for draft in drafts])
    else:
        write(_table(drafts))
    way = flags.method
    if is_chosen(way):
        known = ("num_drafts", "max_new_tokens", "ngrams", "context_length")
        way = model.choose_way(text, **{name: options[name] for name in known}).name
    notes(quiet=printing.quiet).print(f"{len(drafts)} drafts by {way} in {milliseconds:.1f} ms")


def _table(drafts: list[Suggestion]) -> str:
    """Return the drafts, with their line ends as `\\n`, and their scores."""
    lines = [("text", " score"), *((repr(draft.text), f"{round(draft.score, 2) + 0.0:6.2f}") for draft in drafts)]
    width = max(len(text) for text, _ in lines)
    return "".join(f"{text:{width}}  {score}\n" for text, score in lines)


def _require_terminal(printing: Printing) -> None:
    """Raise ConfigError where nobody can type, or the library that reads keys is missing."""
    if printing.as_json:
        raise ConfigError("--json prints the drafts of one text, --interactive shows those of many; leave one out")
    if sys.stdin is None or not sys.stdin.isatty() or sys.stderr is None or not sys.stderr.isatty():
        raise ConfigError("--interactive needs a terminal to type in; leave it out to read a text from standard input")
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--interactive needs prompt_toolkit; which is not installed; pip install skipstone[interactive]"
        ) from error
