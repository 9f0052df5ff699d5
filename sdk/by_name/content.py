"""The content of a checkpoint: its files, by which a kept export is found again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from skipstone.by_name.kept_export import Files
from skipstone.errors import CheckpointError

__all__ = ["digest", "file_stats", "is_checkpoint"]

CHUNK: Final = 1 << 20
GGUF: Final = b"GGUF"
TEMPLATES: Final = "additional_chat_templates"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of a checkpoint or a GGUF file, whatever its suffix."""
    if path.is_dir():
        return (path / "config.json").is_file()
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(GGUF)) == GGUF
    return False


def file_stats(place: Path) -> Files:
    """Return size, time of change and number of each file. Raises: CheckpointError."""
    try:
        told = {name: path.stat() for name, path in _files(place)}
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in told.items()}


def digest(place: Path) -> str:
    """Return what stands for the content of a checkpoint. Raises: CheckpointError."""
    whole = hashlib.sha256()
    try:
        for name, path in _files(place):
            # A GGUF file is the same by another name.
            whole.update(
                f"{name if place.is_dir() else ''}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape")
            )
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    whole.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error
    return whole.hexdigest()


def _files(place: Path) -> Iterable[tuple[str, Path]]:
    """Return the names and paths of the files of a checkpoint."""
    if place.is_file():
        return [(place.name, place)]
    found = [path for folder in (place, place / TEMPLATES) if folder.is_dir() for path in folder.iterdir()]
    return sorted((str(path.relative_to(place)), path) for path in found if path.is_file() and path.name[0] != ".")
