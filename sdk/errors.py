"""The errors a user can meet: one small tree, every message with what happened, what was wanted and what to do.

This module imports nothing, so every part of the package may use it.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CacheFull",
    "CheckFailed",
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "OutputError",
    "SkipstoneError",
    "TextError",
    "UnsupportedModel",
]


# What a file says may be quoted in an error, and a file of a stranger may say a megabyte.
_MOST_CHARACTERS = 1000
_FIRST, _LAST = 600, 300


class SkipstoneError(Exception):
    """Anything that the user can mend; the command line prints it as one line and exits with 2.

    The message is one line of at most 1,000 characters, whatever it quotes: of a longer one the middle is left out.
    """

    def __init__(self, *told: object) -> None:
        super().__init__(*(_as_line(part) if isinstance(part, str) else part for part in told))


def _as_line(message: str) -> str:
    if len(message) > _MOST_CHARACTERS:
        left_out = len(message) - _FIRST - _LAST
        message = f"{message[:_FIRST]} ... {left_out} characters ... {message[-_LAST:]}"
    return " ".join(line.strip() for line in message.splitlines()) if len(message.splitlines()) > 1 else message


class ConfigError(SkipstoneError):
    """An option has a value that cannot work, alone or with the others."""


class TextError(ConfigError):
    """A text holds what is no character, as bytes do that are not UTF-8."""


class CheckpointError(SkipstoneError):
    """The checkpoint cannot be read: a file or tensor is missing, truncated, misshapen or not a number."""


class CheckFailed(SkipstoneError):
    """The bundle does not compute what its checkpoint does; it was not written."""


class UnsupportedModel(CheckpointError):
    """The checkpoint is whole, but its family or one of its options is not known."""


class BundleError(SkipstoneError):
    """The bundle is missing, damaged, altered or made by a newer version."""


class OutputError(SkipstoneError):
    """The result cannot be written: the place exists, is read-only or full."""


class DeviceError(SkipstoneError):
    """The device is unknown, missing or cannot do what is asked."""


class CacheFull(SkipstoneError):
    """Prompt and answer do not fit the context."""
