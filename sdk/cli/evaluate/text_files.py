"""The files that `eval text` reads: plain text, or JSON lines of texts and chats as the model's template shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipstone.cli.options import read_text
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.text import ChatTemplate

__all__ = ["read_documents"]


def read_documents(paths: Sequence[Path], template: ChatTemplate | None) -> list[str]:
    """Return the texts of files; of one that ends in .jsonl each line.

    Raises: ConfigError for what cannot be read, and for chats where there is no template.
    """
    return [text for path in paths for text in _texts(path, template)]


def _texts(path: Path, template: ChatTemplate | None) -> Iterator[str]:
    from skipstone.calibrate import Documents

    text = read_text(path)
    if path.suffix.lower() != ".jsonl":
        yield text
        return
    for document in Documents.read(path).items:
        if isinstance(document, str):
            yield document
        elif template is None:
            raise ConfigError(f"{path} holds chats, and the model has no chat template; give plain text")
        else:
            yield template.render(document, add_generation_prompt=False)
