"""What a calibration reads: a text file, or JSON lines of chats and texts; refused before any work where it cannot be.

`auto` is the text in the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from skipstone.bundled import CALIBRATION_TEXT
from skipstone.errors import ConfigError

__all__ = ["AUTO", "Chat", "Document", "Documents"]

AUTO: Final = "auto"
_FORMS: Final = '{"messages": [...]}, a list of messages, or {"text": ...}'

Chat: TypeAlias = tuple[dict[str, Any], ...]
"""Messages, each with its `role` and `content`."""
Document: TypeAlias = str | Chat


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts and chats, and what the user called them."""

    source: str
    items: tuple[Document, ...]

    @classmethod
    def read(cls, source: str | Path) -> Documents:
        """Return the documents of a file, or of the package for the word `auto`.

        A file of JSON lines holds a chat or a text in each; any other is one text. Raises: ConfigError, in one line.
        """
        path = CALIBRATION_TEXT if str(source) == AUTO else Path(source)
        text = _read(path)
        if not text.strip():
            raise ConfigError(f"{path} holds no text to calibrate with; give some pages of what the model is for")
        if path.suffix == ".jsonl" or _is_json(text.lstrip().partition("\n")[0]):
            return cls(str(source), tuple(_json_lines(path, text)))
        return cls(str(source), (text,))

    @property
    def is_packaged(self) -> bool:
        """Whether it is the text of the package, made for no model in particular."""
        return self.source == AUTO


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a text to calibrate with") from error


def _is_json(line: str) -> bool:
    """Whether a line is an object or a list of JSON."""
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_lines(path: Path, text: str) -> list[Document]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                documents.append(_document(json.loads(line)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ConfigError(f"{path}, line {number}: a line is {_FORMS}; {_reason(error)}") from error
    return documents


def _document(data: Any) -> Document:
    """Return the chat or text in a line of JSON. Raises: ValueError, KeyError, TypeError."""
    if isinstance(data, dict) and isinstance(data.get("text"), str):
        return str(data["text"])
    messages = data["messages"] if isinstance(data, dict) else data
    if not isinstance(messages, list) or not messages:
        raise ValueError("found no list of messages")
    for message in messages:
        if not isinstance(message["role"], str) or "content" not in message:
            raise ValueError("a message has a role and content")
    return tuple(messages)


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
