"""Where text comes in: all of standard input as one prompt, or line by line."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Final, TextIO

from skipstone.cli.terminal import notes
from skipstone.errors import ConfigError

__all__ = ["read_document", "read_line", "read_prompt", "require_input"]

PATIENCE_S: Final = 2.0


def read_prompt(prompt: str | None) -> str:
    """Return the prompt that was given, or all of standard input. Raises: ConfigError where that cannot be read."""
    if prompt is not None:
        return prompt
    source = require_input("give the text with --prompt")
    try:
        return source.read()
    except OSError as error:
        raise _unreadable(error) from error


def read_document(*, quiet: bool = False, patience_s: float = PATIENCE_S) -> str:
    """Return what comes through a pipe or from a file on standard input, beside a prompt that was given; else "".

    A terminal is not read, nor what is no file, such as /dev/null or a socket. Where nothing comes through a pipe for
    `patience_s` seconds it is said that it is waited for, unless `quiet`. Raises: ConfigError where it cannot be read.
    """
    source = sys.stdin
    try:
        number = source.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    is_waited_for = stat.S_ISFIFO(mode) and os.name == "posix"
    if is_waited_for and not select.select([number], [], [], patience_s)[0]:
        notes(quiet=quiet).print("waiting for the text on standard input; where none comes, add < /dev/null")
    try:
        return source.read()
    except OSError as error:
        raise _unreadable(error) from error


def read_line(advice: str) -> str | None:
    """Return the next line of standard input without its end, None behind the last. Raises: ConfigError."""
    try:
        line = require_input(advice).readline()
    except OSError as error:
        raise _unreadable(error) from error
    return line.rstrip("\n") if line else None


def require_input(advice: str) -> TextIO:
    """Return standard input. Raises: ConfigError with advice where the program was started without one."""
    if sys.stdin is None:
        raise ConfigError(f"standard input is closed; {advice}")
    return sys.stdin


def _unreadable(error: OSError) -> ConfigError:
    return ConfigError(f"standard input cannot be read: {error.strerror or error}; give a file or a pipe")
