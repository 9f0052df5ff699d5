"""What products are given in a calibration: the mean outer product of their inputs.

Shapes: B windows, T tokens of each, E hidden size, K columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.layer_graphs import LayerGraph

__all__ = ["Doubles", "batches", "hessians", "through"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
_TOKENS: Final = 1024  # of a call


def batches(states: NDArray[np.generic]) -> Iterator[slice]:
    """Yield the windows of each call over states or tokens [B, T, ...]."""
    size = max(1, _TOKENS // states.shape[1])
    for start in range(0, len(states), size):
        yield slice(start, start + size)


def hessians(graph: LayerGraph, states: Floats) -> Mapping[str, Doubles]:
    """Return the mean outer product [K, K] of the inputs of each matrix that a graph taps, over states [B, T, E]."""
    sums: dict[str, Doubles] = {}
    for batch in batches(states):
        for name, x in graph.inputs(states[batch]).items():
            total = sums.setdefault(name, np.zeros((x.shape[1], x.shape[1])))
            total += x.T @ x
    for total in sums.values():
        total /= states.shape[0] * states.shape[1]
    return {matrix: sums[output] for matrix, output in graph.taps.items()}


def through(graph: LayerGraph, states: Floats) -> Floats:
    """Return the states [B, T, E] behind a layer."""
    return np.concatenate([graph.states(states[batch]) for batch in batches(states)])
