"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from skipstone.errors import ConfigError

__all__ = [
    "BundleArgument",
    "CalibrationOption",
    "DecodeOption",
    "DeviceOption",
    "DialOption",
    "DialsOption",
    "DrafterOption",
    "JsonOption",
    "QuietOption",
    "SeedOption",
    "SuffixMemoryOption",
    "TemperatureOption",
    "ThreadsOption",
    "TopPOption",
    "dial_settings",
    "read_text",
    "require_drafter",
    "require_lossless",
    "require_suffix",
]

BundleArgument = Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle folder, or the word pebble.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Where to run; `skipstone devices` lists them.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; default: the physical cores.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", metavar="X", min=0.0, help="Above 0 draws by chance; 0 takes the likeliest.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", metavar="P", help="Keep the likeliest tokens up to this probability; 1 is off.")
]
DecodeOption = Annotated[
    str, typer.Option("--decode", metavar="METHOD", help="auto, plain, or drafters in order of price: ngram,model.")
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", metavar="FILE", help="With --min-agreement: use this calibration, not the kept one."),
]
DialOption = Annotated[
    float | None,
    typer.Option(
        "--dial", metavar="X", help="With an approximate --decode: set its dial, in place of --min-agreement."
    ),
]
DialsOption = Annotated[
    list[str] | None,
    typer.Option("--dial", metavar="X,...", help="With --decode: settings of its dial to judge; repeatable."),
]
DrafterOption = Annotated[
    str | None,
    typer.Option("--drafter", metavar="BUNDLE", help="A smaller bundle of the family as the small model."),
]
SuffixMemoryOption = Annotated[
    Path | None,
    typer.Option("--suffix-memory", metavar="FILE", help="Remember texts for the suffix drafter in this file."),
]


def require_drafter(decode: str, drafter: str | None) -> None:
    """Raise ConfigError for a small model that the decoding method would not use."""
    from skipstone.runtime.methods import MethodChoice

    if drafter is None:
        return
    choice = MethodChoice.parse(decode)
    if not any(method.uses_draft_model for method in choice.considered):
        todo = "leave it out" if choice.stands_alone else "add model"
        raise ConfigError(f"--drafter names a small model, which --decode {decode} does not use; {todo}")


def require_suffix(decode: str, suffix_memory: Path | None) -> None:
    """Raise ConfigError for a memory that the decoding method would not use."""
    from skipstone.runtime.methods import MethodChoice

    if suffix_memory is None:
        return
    choice = MethodChoice.parse(decode)
    if not any(method.remembers for method in choice.considered):
        todo = "leave it out" if choice.stands_alone else "add suffix"
        raise ConfigError(f"--suffix-memory is for the suffix drafter, which --decode {decode} does not use; {todo}")


def require_lossless(names: Iterable[str], command: str) -> None:
    """Raise ConfigError for an approximate method among those given to a command that runs none."""
    from skipstone.runtime.methods import approximate_methods

    approximate = [name for name, method in approximate_methods().items() if method.only_writes]
    for name in map(str.strip, names):
        if name in approximate:
            raise ConfigError(
                f"--decode {name} is approximate, which generate and eval run; {command} takes auto, plain and drafters"
            )


def dial_settings(given: Sequence[str]) -> tuple[float, ...]:
    """Return settings of a dial, each option one or several apart by commas. Raises: ConfigError for no number."""
    try:
        return tuple(float(one) for option in given for one in option.split(","))
    except ValueError as error:
        raise ConfigError(f"--dial takes numbers, such as 0.5 or 0.5,1,2; got {','.join(given)}") from error


def read_text(path: Path) -> str:
    """Return the text of a file. Raises: ConfigError when it cannot be read, is no UTF-8 or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text:
        raise ConfigError(f"{path} is empty; give a text of some thousand words")
    return text


SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same text.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")]
