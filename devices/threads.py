"""How many processor cores this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

__all__ = ["count_cores", "physical_cores"]


def physical_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    Two hardware threads of one core count once: they share the arithmetic units that a model keeps busy.
    """
    if hasattr(os, "sched_getaffinity"):
        return count_cores(os.sched_getaffinity(0), Path("/"))
    return os.cpu_count() or 1


def count_cores(processors: Collection[int], root: Path) -> int:
    """Return how many cores the numbered `processors` make, and no more than the control group allows.

    `root` holds Linux's `sys` and `proc`. A processor whose siblings are not known counts as a core of its own.
    """
    cores = {_siblings(processor, root) for processor in processors}
    return max(1, min([len(cores), *_quotas(root)]))


def _siblings(processor: int, root: Path) -> str:
    file = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    try:
        return file.read_text().strip()
    except OSError:
        return str(processor)


def _quotas(root: Path) -> Iterator[int]:
    """Yield the cores that `cpu.max` grants to our control group (version 2) and to each of its parents."""
    group = _control_group(root)
    if group is None:
        return
    for folder in (group, *group.parents):
        file = root / "sys/fs/cgroup" / folder.relative_to("/") / "cpu.max"
        try:
            quota, period = file.read_text().split()
        except OSError:
            continue  # the root group has no limit, and a container may not see its parents
        if quota != "max":
            yield math.ceil(int(quota) / int(period))


def _control_group(root: Path) -> PurePosixPath | None:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::/")]
    return PurePosixPath(paths[0]) if paths else None
