"""Talks in files: a JSON list of messages, as chat services take it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skipstone.errors import ConfigError, OutputError, SkipstoneError
from skipstone.messages import Message, checked_messages

__all__ = ["load_messages", "save_messages"]

END: Final[Message] = {"role": "user", "content": "?"}  # what checked messages must end with


def save_messages(file: Path, messages: Sequence[Message]) -> None:
    """Write messages to a file, whole or not at all. Raises: OutputError, also for a file that holds something else."""
    if file.exists():
        try:
            load_messages(file)
        except ConfigError as error:
            raise OutputError(f"{file} is there and holds no talk; choose another name") from error
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps([*messages], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error


def load_messages(file: Path) -> list[Message]:
    """Return the messages of a file: a list, or what an object holds as `messages`. Raises: ConfigError."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no JSON; a talk is what /save or Conversation.save wrote") from error
    messages = told.get("messages") if isinstance(told, dict) else told
    if not isinstance(messages, list):
        raise ConfigError(f"{file} holds no list of messages; a talk is what /save or Conversation.save wrote")
    try:
        return checked_messages([*messages, END])[:-1]
    except SkipstoneError as error:
        raise ConfigError(f"{file}: {error}") from error
