"""Which processors of a machine are faster than others, as on phones and laptops with two kinds of cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

__all__ = ["fastest_first", "own_processors", "speed_of"]


def own_processors() -> tuple[int, ...]:
    """Return the numbers of the processors that this process may use; none where the system does not place threads."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def fastest_first(processors: Collection[int], root: Path = Path("/")) -> tuple[int, ...]:
    """Return one processor of each core, the fastest first, of equal ones in order; `root` holds Linux's `sys`."""
    cores: dict[str, int] = {}
    for processor in sorted(processors):
        cores.setdefault(_core(processor, root), processor)
    return tuple(sorted(cores.values(), key=lambda processor: -speed_of(processor, root)))


def speed_of(processor: int, root: Path = Path("/")) -> int:
    """Return how fast a processor is, to compare it with others: its capacity, else its highest clock; 0 if unknown."""
    folder = root / f"sys/devices/system/cpu/cpu{processor}"
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        with contextlib.suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return 0


def _core(processor: int, root: Path) -> str:
    try:
        return (root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
