"""A file that is there whole or not at all, whatever ends the process that writes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from skipstone.errors import OutputError

__all__ = ["write_whole"]

# A partial file that nobody has written to for so long is of a process that was ended.
LEFT_BEHIND_S: Final = 600.0


def write_whole(path: Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Write a file beside `path` and put it there when it is whole; return its bytes. Raises: OutputError."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        try:
            with partial.open("wb") as stream:
                stream.writelines(pieces)
                size = stream.tell()
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    return size


def _remove_left_behind(path: Path) -> None:
    """Remove partial files of processes that were ended while they wrote."""
    for partial in path.parent.iterdir():
        if partial.name.startswith(f".{path.name}.partial-") and (
            time.time() - partial.stat().st_mtime > LEFT_BEHIND_S
        ):
            partial.unlink(missing_ok=True)
