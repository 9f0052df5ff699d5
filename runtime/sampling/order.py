"""The first few of many in order, without sorting them all: a vocabulary has 150,000 tokens, a choice has 50."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_in_order", "growing_prefixes", "shortest_prefix"]

_MARGINS = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, np.inf)
"""How far above the least key the next prefix reaches, in nats: most of the probability lies within the first few."""


def growing_prefixes(keys: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.int64]]:
    """Yield the ids of the smallest keys in ascending order, more each time, at last of all finite keys.

    Equal keys come in order of id, and never only some of them, so each prefix is one of the full stable sort.
    """
    least, largest = float(keys.min()), float(np.finfo(keys.dtype).max)
    for margin in _MARGINS:
        ids = np.flatnonzero(keys <= min(least + margin, largest))
        yield ids[np.argsort(keys[ids], kind="stable")]


def first_in_order(keys: NDArray[np.floating[Any]], num: int) -> NDArray[np.int64]:
    """Return the ids of the `num` smallest keys in ascending order, of all finite keys when they are fewer."""
    for ids in growing_prefixes(keys):
        if len(ids) >= num:
            break
    return ids[:num]


def shortest_prefix(keys: NDArray[np.floating[Any]], weights: NDArray[np.float32], mass: float) -> NDArray[np.int64]:
    """Return the fewest ids, in ascending order of keys, that hold at least the share `mass` of all weights."""
    target = mass * float(weights.sum(dtype=np.float64))
    for ids in growing_prefixes(keys):
        sums = np.cumsum(weights[ids], dtype=np.float64)
        if sums[-1] >= target:
            break
    return ids[: int(np.searchsorted(sums, target)) + 1]
