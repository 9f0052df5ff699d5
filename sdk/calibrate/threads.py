"""Threads of a calibration: its own, with one for each of NumPy's matrix products.

OpenBLAS lets its threads spin for some 20 ms after each product, and there are thousands: they would take a core from
those that have work.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from skipstone.devices import physical_cores

__all__ = ["in_parallel", "one_blas_thread"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_FOLDERS: Final = ("../numpy.libs", ".dylibs", ".libs")
_AFFIXES: Final = (("scipy_openblas_", "64_"), ("openblas_", "64_"), ("scipy_openblas_", ""), ("openblas_", ""))


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return what `work` makes of each item, on a thread for each core."""
    with ThreadPoolExecutor(physical_cores()) as pool:
        return [*pool.map(work, items)]


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep the OpenBLAS that came with NumPy to one thread; another library does as it likes."""
    found = _functions()
    if found is None:
        yield
        return
    get_threads, set_threads = found
    before = get_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return what tells and what sets the number of threads; None where there is no such library."""
    for folder in _FOLDERS:
        for path in sorted((Path(np.__file__).parent / folder).glob("*openblas*")):
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(path))
                for prefix, suffix in _AFFIXES:
                    if hasattr(library, f"{prefix}set_num_threads{suffix}"):
                        get = getattr(library, f"{prefix}get_num_threads{suffix}")
                        return get, getattr(library, f"{prefix}set_num_threads{suffix}")
    return None
