"""A folder that stays as it was opened while somebody reads it, though another takes its name meanwhile."""

from __future__ import annotations

import os
import sys
import time
import weakref
from pathlib import Path
from typing import Final

from skipstone.errors import BundleError
from skipstone.runtime.bundle.leftovers import is_own, lock_for_reading

__all__ = ["HeldFolder"]

OPEN_FILES: Final = Path("/proc/self/fd")  # each descriptor of this process, as a path
# How long a folder is waited for that another process shows or removes in this moment.
PATIENCE_S: Final = 5.0
PAUSE_S: Final = 0.005


class HeldFolder:
    """An open folder, locked for reading: an export may take its name, but nobody removes its files.

    The lock ends with this object. `within` is the held folder that this one lies in, whose lock covers it.
    """

    def __init__(self, path: Path, *, within: HeldFolder | None = None) -> None:
        """Raises: OSError where `path` is no folder that can be read; BundleError where an export keeps it locked."""
        self.path, self._within = path, within
        self._descriptor = _opened(path) if within is None and sys.platform != "win32" else None
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor)

    @property
    def place(self) -> Path:
        """Where the files of this folder are, whatever is called `path` by now."""
        if self._within is not None:
            return self._within.place / self.path.relative_to(self._within.path)
        if self._descriptor is None:
            return self.path
        if OPEN_FILES.is_dir():
            return OPEN_FILES / str(self._descriptor)
        return _path_of(self._descriptor) or self.path


def _opened(path: Path) -> int:
    """Return a descriptor of the folder at `path`, locked for reading."""
    until = time.monotonic() + PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        if is_own(path) or lock_for_reading(descriptor):  # this process has the lock
            return descriptor
        os.close(descriptor)
        if time.monotonic() > until:
            raise BundleError(f"{path} is being written by an export: wait for it, then try again")
        time.sleep(PAUSE_S)


def _path_of(descriptor: int) -> Path | None:
    """Return where an open folder is now, on macOS; None where the system does not tell."""
    import fcntl

    if (question := getattr(fcntl, "F_GETPATH", None)) is None:
        return None
    return Path(os.fsdecode(fcntl.fcntl(descriptor, question, bytes(1024)).rstrip(b"\0")))
