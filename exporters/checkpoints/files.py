"""Reading the files of a checkpoint: whatever goes wrong is an error that names the file.

A folder of a stranger may hold links to secrets, devices and pipes: only regular files are read, and links are followed
only where they stay in the folder, or lead to the files of a model in the cache of the Hugging Face hub.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Final

from skipstone.errors import CheckpointError

__all__ = [
    "MOST_TEXT_BYTES",
    "blaming",
    "listing",
    "optional_json",
    "read_bounded",
    "read_json",
    "reading",
    "refuse_lfs_pointer",
    "require_inside",
]

# Settings have some kilobytes, the index of a large model some megabytes.
MOST_JSON_BYTES: Final = 64 << 20
MOST_TEXT_BYTES: Final = 256 << 20
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
def reading(path: Path, *, named: bool = False) -> Iterator[FileIO]:
    """The file, open for reading; one that the user `named` may be a link to anywhere.

    Raises CheckpointError when the system refuses, and for what is no regular file, or a link that leads out.
    """
    if not named:
        require_inside(path)
    with blaming(path), FileIO(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{path}: is no regular file, and nothing else is read: copy the file there")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer too, which would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def require_inside(path: Path) -> None:
    """Raise CheckpointError for a link that leads out of its folder, save to the blobs of the hub's own cache."""
    with blaming(path):
        if not path.is_symlink():
            return
        folder, target = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
    allowed = [folder]
    if "snapshots" in folder.parts:
        allowed.append(Path(*folder.parts[: folder.parts.index("snapshots")], "blobs"))
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{path}: is a link that leads out of its folder, to {target}: copy the file there")


def refuse_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError when git stored only a pointer to this file."""
    with reading(path) as file:
        if file.read(len(_LFS_MARK)) == _LFS_MARK:
            raise CheckpointError(f"{path}: is a git-lfs pointer, not weights: run git lfs pull")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises: CheckpointError when it has more than `most`, or cannot be read."""
    with reading(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise CheckpointError(f"{path}: has {size} bytes, and no such file needs more than {most}")
        return file.readall()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises: CheckpointError when it cannot be read or is damaged."""
    refuse_lfs_pointer(path)
    text = read_bounded(path, MOST_JSON_BYTES)
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
