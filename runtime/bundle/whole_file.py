"""A file that is there whole or not at all, whatever ends the process that writes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from skipstone.errors import OutputError
from skipstone.runtime.bundle.leftovers import lock_for_reading, lock_for_writing

__all__ = ["write_whole"]

# A partial file that nobody has written to for so long is of a process that was ended, also where files have no locks.
LEFT_BEHIND_S: Final = 600.0
NEW_S: Final = 1.0


def write_whole(path: Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Write a file beside `path` and put it there when it is whole; return its bytes. Raises: OutputError."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        try:
            with partial.open("wb") as stream:
                lock_for_reading(stream.fileno())  # until it is closed, which the end of the process does too
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
        if partial.name.startswith(f".{path.name}.partial-") and _is_left_behind(partial):
            partial.unlink(missing_ok=True)


def _is_left_behind(partial: Path) -> bool:
    """Whether nobody writes a partial file: it is not locked, and not so new that its lock may be about to come."""
    try:
        age_s = time.time() - partial.stat().st_mtime
        if not NEW_S < age_s < LEFT_BEHIND_S:
            return age_s >= LEFT_BEHIND_S
        lock = lock_for_writing(partial)
    except OSError:
        return False  # it is being written, or another removed it
    if lock is None:
        return False
    os.close(lock)
    return True
