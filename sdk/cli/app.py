"""The program `skipstone`: its commands, and how errors end it.

Exit codes: 0 done; 2 a mistake the user can mend, one line; 130 interrupted; 1 a fault of ours, with a traceback.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final, NoReturn, TextIO

import typer
from typer.exceptions import TyperException

from skipstone.cli.command import add_command
from skipstone.cli.reading import StoppedReading
from skipstone.errors import SkipstoneError
from skipstone.spellings import option_here

__all__ = ["main", "program"]

INTERRUPTED = 130  # the shells' number for Ctrl-C

COMMANDS: Final = (
    *("export", "generate", "suggest", "choose", "chat", "inspect", "devices"),
    *("check-target", "train-exits", "train-experts", "ngrams", "demo"),
)
"""Each is a module of this package."""
GROUPS: Final = {"tune": "tune", "bench": "bench", "eval": "evaluate", "cache": "cache"}
"""Each is a package in this one, which holds the group by the same name."""


def program(words: Sequence[str]) -> typer.Typer:
    """Return the program as far as these words need it: the command that they name, or all for help and mistakes.

    To import a command takes some milliseconds, and all of them a tenth of a second.
    """
    app = typer.Typer(
        name="skipstone",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
            "token_normalize_func": option_here,  # for `--max-tokens`, `--temp` and the like
        },
    )
    app.callback()(options)
    named = next((word for word in words if word in COMMANDS or word in GROUPS), None)
    is_plain = named is not None and all(word == "--traceback" for word in words[: words.index(named)])
    for name in COMMANDS:
        if not is_plain or name == named:
            add_command(app, import_module(f"skipstone.cli.{name.replace('-', '_')}"))
    for name, package in GROUPS.items():
        if not is_plain or name == named:
            app.add_typer(getattr(import_module(f"skipstone.cli.{package}"), package), name=name)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("skipstone"))
        raise typer.Exit


def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fast, lossless LLM decoding on the device in front of you: export a checkpoint, run the bundle."""


def main() -> NoReturn:
    """Run the program and leave with its exit code."""
    _bear_any_text()
    warnings.showwarning = _show_warning
    try:
        words = sys.argv[1:] or ["--help"]
        code = program(words)(args=words, prog_name="skipstone", standalone_mode=False)
    except StoppedReading as error:
        sys.stderr.write(f"skipstone: {error}\n")
        sys.exit(INTERRUPTED)
    except (SkipstoneError, TyperException) as error:
        if "--traceback" in sys.argv[1:] and isinstance(error, SkipstoneError):
            raise
        sys.stderr.write(f"skipstone: {_one_line(error)}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer gives the code and no word
        sys.stderr.write("skipstone: interrupted\n")
    sys.exit(code or 0)


def _one_line(error: SkipstoneError | TyperException) -> str:
    if isinstance(error, SkipstoneError):
        return " ".join(str(error).split())
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace("Value error, ", "")  # the words of pydantic, which typer uses
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of a run as one line, without the place in the code; others as Python does."""
    if category is RuntimeWarning:
        sys.stderr.write(f"skipstone: {' '.join(str(message).split())}\n")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _bear_any_text() -> None:
    """Let bytes that are not text reach the tokenizer, which names them; show what the terminal cannot as \\u2026."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
