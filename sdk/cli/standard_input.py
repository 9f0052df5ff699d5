"""Where text comes in: all of standard input as one prompt, or line by line."""

from __future__ import annotations

import sys
from typing import TextIO

from skipstone.errors import ConfigError

__all__ = ["read_line", "read_prompt", "require_input"]


def read_prompt(prompt: str | None) -> str:
    """Return the prompt that was given, or all of standard input. Raises: ConfigError where that cannot be read."""
    if prompt is not None:
        return prompt
    source = require_input("give the text with --prompt")
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
