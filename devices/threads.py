"""How many processor cores this process may really use."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from skipstone.devices.control_groups import granted_cores
from skipstone.devices.system_cores import system_cores

__all__ = ["count_cores", "physical_cores"]


def physical_cores(root: Path = Path("/")) -> int:
    """Return the number of physical cores that this process may use, at least 1; `root` as for `count_cores`.

    Two hardware threads of one core count once: they share the arithmetic units that a model keeps busy.
    """
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = count_cores(processors, root)
    return min(cores, system_cores() or cores)


def count_cores(processors: Collection[int], root: Path) -> int:
    """Return how many cores the numbered `processors` make, and no more than the control group allows.

    `root` holds Linux's `sys` and `proc`. A processor whose siblings are not known counts as a core of its own.
    """
    cores = {_siblings(processor, root) for processor in processors}
    return max(1, min([len(cores), *granted_cores(root)]))


def _siblings(processor: int, root: Path) -> str:
    file = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    try:
        return file.read_text().strip()
    except OSError:
        return str(processor)
