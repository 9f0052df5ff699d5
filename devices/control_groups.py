"""What Linux's control groups, of version 1 and 2, grant to this process: cores and memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["granted_bytes", "granted_cores"]

USUAL = "/sys/fs/cgroup"
# What a group without a limit says in version 1: the largest number of whole pages, here of any size.
NO_LIMIT = 1 << 60


def granted_cores(root: Path) -> Iterator[int]:
    """Yield the cores that our control group may use, and each of its parents; nothing for those without a limit.

    `root` holds Linux's `sys` and `proc`. A container may see no parent, and its own group under another path.
    """
    for place in _folders(root, "cpu"):
        for limit in (_new_limit(place), _old_limit(place)):
            if limit is not None:
                yield limit


def granted_bytes(root: Path) -> Iterator[int]:
    """Yield the bytes that our control group may still take, and each of its parents; nothing where there is no limit.

    What it holds of files that nobody read lately counts as free, as the system drops that first. `root` as for
    `granted_cores`.
    """
    for place in _folders(root, "memory"):
        for left in (_new_bytes(place), _old_bytes(place)):
            if left is not None:
                yield max(0, left)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders that may tell the limits of our group and of its parents."""
    for mount, group in _groups(root, controller):
        for folder in (group, *group.parents):
            yield root / mount.lstrip("/") / folder.relative_to("/")


def _groups(root: Path, controller: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield where groups with limits of a controller may be mounted, and our path below."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            usual = [(f"{USUAL}/{controllers}", "/"), (f"{USUAL}/{controller}", "/")]
            places = {*usual, *((mount, top) for mount, top, kinds in mounts if controller in kinds)}
        elif not controllers:
            usual = [(USUAL, "/")]
            places = {*usual, *((mount, top) for mount, top, kinds in mounts if "cgroup2" in kinds)}
        else:
            continue
        for mount, top in places:
            yield mount, _below(PurePosixPath(path), top)


def _mounts(root: Path) -> list[tuple[str, str, set[str]]]:
    """Return for every mount of control groups its place, the group that lies there, its type and its controllers."""
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, system = line.partition(" - ")
        fields, (kind, _, options) = place.split(), system.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            mounts.append((fields[4], fields[3], {kind, *options.split(",")}))
    return mounts


def _below(path: PurePosixPath, top: str) -> PurePosixPath:
    """Return a group's path below the group that is mounted."""
    return PurePosixPath("/") / path.relative_to(top) if path.is_relative_to(top) else path


def _new_limit(folder: Path) -> int | None:
    """Return the cores that `cpu.max` of version 2 grants: `quota period`, or `max period`."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    return None


def _old_limit(folder: Path) -> int | None:
    """Return the cores that version 1 grants; its quota is -1 where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return math.ceil(quota / period) if quota > 0 else None
    return None


def _new_bytes(folder: Path) -> int | None:
    """Return what version 2 still grants: up to the limit, or to that from which the system slows the group down."""
    limits = [limit for name in ("max", "high") if (limit := _number(folder / f"memory.{name}")) is not None]
    taken = _number(folder / "memory.current")
    if not limits or taken is None:
        return None
    return min(limits) - taken + _of_files(folder, "inactive_file")


def _old_bytes(folder: Path) -> int | None:
    """Return what version 1 still grants."""
    limit, taken = (_number(folder / f"memory.{name}_in_bytes") for name in ("limit", "usage"))
    if limit is None or limit >= NO_LIMIT or taken is None:
        return None
    return limit - taken + _of_files(folder, "total_inactive_file")


def _of_files(folder: Path, name: str) -> int:
    """Return the bytes of files that a group holds."""
    fields = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    return int(fields[name]) if fields.get(name, "").isdecimal() else 0


def _number(file: Path) -> int | None:
    """Return the number that a file holds; None where it has none, or the word `max`."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []
