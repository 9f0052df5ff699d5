"""Hidden folders beside a bundle: where it is written, and where the old one waits until nobody reads it.

Beside a bundle NAME, an export works in `.NAME.partial-PID`; where two folders cannot be swapped in one step, the old
bundle waits in `.NAME.old-PID` while the new one takes its place. A folder of either kind is locked by whoever writes
or reads it, and the system drops the lock when that process dies. One without a lock is what a crash left: see `mend`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

__all__ = ["hidden", "is_own", "lock_for_reading", "lock_for_writing", "mend", "remove", "remove_abandoned"]


def mend(target: Path) -> None:
    """Remove what nobody uses any more beside `target`; put the old bundle back where an export died replacing it."""
    for pid in _leftovers(target, "partial"):
        remove_abandoned(hidden(target, "partial", pid))
    for pid in _leftovers(target, "old"):
        old, partial = hidden(target, "old", pid), hidden(target, "partial", pid)
        if partial.exists():
            continue  # its export lives and is about to move it
        with contextlib.suppress(OSError):  # another process mends too, or the folder is not ours to change
            if not os.path.lexists(target):
                old.rename(target)
            else:
                old.rename(partial)  # so that a folder named old is always whole
                remove_abandoned(partial)


def hidden(target: Path, kind: str, pid: int) -> Path:
    """Return the hidden folder of a `kind`, `partial` or `old`, that process `pid` has beside `target`."""
    return target.parent / f".{target.name}.{kind}-{pid}"


def is_own(folder: Path) -> bool:
    """Whether a folder is called as one that an export of this process works in."""
    return re.fullmatch(rf"\..+\.partial-{os.getpid()}", folder.name) is not None


def _leftovers(target: Path, kind: str) -> list[int]:
    """Return the process ids in the names of the hidden folders of `kind`."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{kind}-(\d+)")
    try:
        matches = [pattern.fullmatch(path.name) for path in target.parent.iterdir()]
    except OSError:
        return []  # no such folder, or not ours to list and so not ours to mend
    return [int(match[1]) for match in matches if match]


def lock_for_writing(folder: Path) -> int | None:
    """Return a descriptor that keeps all others out of `folder` until it is closed; None where folders have no locks.

    The system drops the lock when the process dies, whatever killed it: unlike a process id, it is never reused.
    Raises: BlockingIOError while another writes or reads it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def lock_for_reading(descriptor: int) -> bool:
    """Keep writers out of an open folder until its descriptor is closed; False while one writes or removes it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # some file systems have no locks
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove a hidden folder that nobody writes or reads; where folders have no locks it stays."""
    try:
        lock = lock_for_writing(folder)
    except OSError:
        return  # its export lives, a model reads it, or the folder is gone or not ours
    if lock is not None:
        remove(folder)
        os.close(lock)


def remove(folder: Path) -> None:
    """Remove a folder as far as that goes: what resists now is tried again by the next `mend`."""
    shutil.rmtree(folder, ignore_errors=True)
