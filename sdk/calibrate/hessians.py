"""What products are given in a calibration: the mean outer product of their inputs.

Shapes: B windows, T tokens of each, E hidden size, K columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.layer_graphs import LayerGraph

__all__ = ["Doubles", "batches", "hessians", "input_noise", "through"]

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
    for batch in batches(states) if graph.taps else ():  # without taps a run would give every output
        for name, x in graph.inputs(states[batch]).items():
            total = sums.setdefault(name, np.zeros((x.shape[1], x.shape[1])))
            total += x.T @ x
    for total in sums.values():
        total /= states.shape[0] * states.shape[1]
    return {matrix: sums[output] for matrix, output in graph.taps.items()}


def largest_inputs(graph: LayerGraph, states: Floats) -> Mapping[str, Doubles]:
    """Return the largest magnitude [K] of each input of each matrix that a graph taps, over states [B, T, E]."""
    largest: dict[str, Doubles] = {}
    for batch in batches(states) if graph.taps else ():
        for name, x in graph.inputs(states[batch]).items():
            largest[name] = np.maximum(largest.get(name, 0.0), np.abs(x).max(axis=0))
    return {matrix: largest[output] for matrix, output in graph.taps.items()}


def input_noise(graph: LayerGraph, states: Floats, block_sizes: Sequence[int]) -> Mapping[str, Mapping[int, Doubles]]:
    """Return how far the kernel's rounding to 8 bits moves each input, by matrix and block size: mean squares [K].

    An input moves by up to half a step of its block, whose largest has 127 of them.
    """
    sums: dict[str, dict[int, Doubles]] = {}
    for batch in batches(states):
        for name, x in graph.inputs(states[batch]).items():
            found = sums.setdefault(name, {size: np.zeros(x.shape[1]) for size in block_sizes})
            for size, total in found.items():
                total += _largest(x, size).sum(axis=0, dtype=np.float64)
    scale = 1 / (12 * 127**2 * states.shape[0] * states.shape[1])
    return {
        matrix: {size: total * scale for size, total in sums[output].items()} for matrix, output in graph.taps.items()
    }


def _largest(x: Floats, block_size: int) -> Floats:
    """Return for each of the inputs [R, K] the square of the largest in its block."""
    starts = np.arange(0, x.shape[1], block_size)
    largest = np.maximum.reduceat(np.square(x), starts, axis=1)
    return np.repeat(largest, block_size, axis=1)[:, : x.shape[1]]


def through(graph: LayerGraph, states: Floats) -> Floats:
    """Return the states [B, T, E] behind a layer."""
    return np.concatenate([graph.states(states[batch]) for batch in batches(states)])
