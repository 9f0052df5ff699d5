"""What products are given in a calibration: the mean outer product of their inputs.

Shapes: B windows, T tokens of each, E hidden size, K columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.layer_graphs import LayerGraph

__all__ = ["batches", "hessians"]

Floats: TypeAlias = NDArray[np.float32]
_TOKENS: Final = 1024  # of a call


def batches(states: NDArray[np.generic]) -> Iterator[slice]:
    """Yield the windows of each call over states or tokens [B, T, ...]."""
    size = max(1, _TOKENS // states.shape[1])
    for start in range(0, len(states), size):
        yield slice(start, start + size)


def hessians(graph: LayerGraph, states: Floats) -> Mapping[str, Floats]:
    """Return the mean outer product [K, K] of the inputs of each matrix that a graph taps, over states [B, T, E]."""
    sums: dict[str, Floats] = {}
    for batch in batches(states):
        for name, x in graph.inputs(states[batch]).items():
            product = x.T @ x
            sums[name] = sums[name] + product if name in sums else product
    num_tokens = np.float32(states.shape[0] * states.shape[1])
    means = {name: total / num_tokens for name, total in sums.items()}
    return {matrix: means[output] for matrix, output in graph.taps.items()}
