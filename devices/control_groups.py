"""What Linux's control groups, of version 1 and 2, grant to this process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["granted_cores"]

USUAL = "/sys/fs/cgroup"


def granted_cores(root: Path) -> Iterator[int]:
    """Yield the cores that our control group may use, and each of its parents; nothing for those without a limit.

    `root` holds Linux's `sys` and `proc`. A container may see no parent, and its own group under another path.
    """
    for mount, group in _groups(root):
        for folder in (group, *group.parents):
            place = root / mount.lstrip("/") / folder.relative_to("/")
            for limit in (_new_limit(place), _old_limit(place)):
                if limit is not None:
                    yield limit


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield where groups with processor limits may be mounted, and our path below."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            usual = [(f"{USUAL}/{controllers}", "/"), (f"{USUAL}/cpu", "/")]
            places = {*usual, *((mount, top) for mount, top, kinds in mounts if "cpu" in kinds)}
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


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []
