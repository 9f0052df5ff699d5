"""Reading the files of a checkpoint: whatever goes wrong is an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Final

from skipstone.errors import CheckpointError

__all__ = ["blaming", "listing", "optional_json", "read_json", "reading", "refuse_lfs_pointer"]

_LFS_MARK: Final = b"version https://git-lfs"


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn the system's refusals into a CheckpointError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def listing(folder: Path) -> frozenset[str]:
    """The names of what lies in the folder. Raises CheckpointError when the system refuses."""
    with blaming(folder):
        return frozenset(path.name for path in folder.iterdir())


@contextmanager
def reading(path: Path) -> Iterator[FileIO]:
    """The file, open for reading. Raises CheckpointError when the system refuses."""
    with blaming(path), path.open("rb", buffering=0) as file:
        yield file


def refuse_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError when git stored only a pointer to this file."""
    with reading(path) as file:
        if file.read(len(_LFS_MARK)) == _LFS_MARK:
            raise CheckpointError(f"{path}: is a git-lfs pointer, not weights: run git lfs pull")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises: CheckpointError when it cannot be read or is damaged."""
    refuse_lfs_pointer(path)
    with reading(path) as file:
        text = file.readall()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file; empty when there is no such file. Raises: as `read_json` does."""
    with blaming(path):
        exists = path.exists()
    return read_json(path) if exists else {}
