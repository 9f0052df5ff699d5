"""One export of a model at a time, whoever asks for it: the others wait, and then find it made."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["lock_of", "taking_turns"]

WAIT_S: Final = 0.05


def lock_of(path: Path) -> Path:
    """Return the file whose lock is the turn."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def taking_turns(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the turn to make what lies at `path`, among all threads and processes; `on_wait` is called once if it waits.

    The system gives the turn back when a process dies. Windows has no such locks: there all go at once, and the writer
    of bundles refuses the second. Raises: OSError where the folder cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_of(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, on_wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, on_wait: Callable[[], None]) -> None:
    import fcntl

    waits = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waits:
                on_wait()
            waits = True
            time.sleep(WAIT_S)  # not in flock itself, which does not hear Ctrl-C in every thread
