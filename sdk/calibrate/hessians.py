"""What products are given in a calibration: the mean outer product of their inputs.

Shapes: B windows, T tokens of each, E hidden size, K columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.layer_graphs import LayerGraph
from skipstone.calibrate.threads import in_parallel

__all__ = ["Doubles", "Seen", "batches", "hessians", "largest_inputs", "look", "through"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Noise: TypeAlias = Mapping[str, Mapping[int, Doubles]]
_TOKENS: Final = 2048  # of a call


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a run over a text has shown of the products of a layer, by the name of their matrix.

    `means` are the mean outer products [K, K] of the inputs. `noise` is how far the kernel's rounding to 8 bits moves
    each input, by block size: mean squares [K]. `states` [B, T, E] are those behind the layer.
    """

    means: Mapping[str, Doubles]
    noise: Noise
    states: Floats


def batches(states: NDArray[np.generic]) -> Iterator[slice]:
    """Yield the windows of each call over states or tokens [B, T, ...]."""
    size = max(1, _TOKENS // states.shape[1])
    for start in range(0, len(states), size):
        yield slice(start, start + size)


def hessians(graph: LayerGraph, states: Floats) -> Mapping[str, Doubles]:
    """Return the mean outer product [K, K] of the inputs of each matrix that a graph taps, over states [B, T, E].

    Matrices that read the same inputs have the same array.
    """
    return look(graph, states, goes_on=False).means


def look(graph: LayerGraph, states: Floats, *, block_sizes: Sequence[int] = (), goes_on: bool = True) -> Seen:
    """Run a layer once over states [B, T, E], and return what it gives and what its products are given.

    Unless it `goes_on`, as a head does not, the states are not asked for: those given are returned.
    """
    sums, behind = _Sums(block_sizes), list[Floats]()
    for batch in batches(states) if goes_on or graph.taps else ():  # no outputs would mean all of them
        if goes_on:
            inputs, given = graph.inputs_and_states(states[batch])
            behind.append(given)
        else:
            inputs = graph.inputs(states[batch])
        sums.add(inputs)
    means, noise = sums.by_matrix(graph, states.shape[0] * states.shape[1])
    return Seen(means=means, noise=noise, states=np.concatenate(behind) if goes_on else states)


def through(graph: LayerGraph, states: Floats) -> Floats:
    """Return the states [B, T, E] behind a layer."""
    return np.concatenate([graph.states(states[batch]) for batch in batches(states)])


def largest_inputs(graph: LayerGraph, states: Floats) -> Mapping[str, Doubles]:
    """Return the largest magnitude [K] of each input of each matrix that a graph taps, over states [B, T, E]."""
    largest: dict[str, Doubles] = {}
    for batch in batches(states) if graph.taps else ():
        for name, x in graph.inputs(states[batch]).items():
            largest[name] = np.maximum(largest.get(name, 0.0), np.abs(x).max(axis=0))
    return {matrix: largest[output] for matrix, output in graph.taps.items()}


class _Sums:
    """Outer products of inputs, and squares of the largest in each block, summed over calls, by the tap."""

    def __init__(self, block_sizes: Sequence[int]) -> None:
        self._block_sizes = block_sizes
        self._products: dict[str, Doubles] = {}
        self._squares: dict[str, dict[int, Doubles]] = {}

    def add(self, inputs: Mapping[str, Floats]) -> None:
        """Add the inputs [R, K] of a call."""
        for name, x in inputs.items():
            if name not in self._products:
                self._products[name] = np.zeros((x.shape[1], x.shape[1]))
                self._squares[name] = {size: np.zeros(x.shape[1]) for size in self._block_sizes}
            for size, total in self._squares[name].items():
                total += _largest(x, size).sum(axis=0, dtype=np.float64)
        _add_products([(self._products[name], x) for name, x in inputs.items()])

    def by_matrix(self, graph: LayerGraph, count: int) -> tuple[dict[str, Doubles], dict[str, dict[int, Doubles]]]:
        """Return the means over `count` rows by the matrices that a graph taps.

        An input moves by up to half a step of its block, whose largest has 127 of them.
        """
        for total in self._products.values():
            half = len(total) // 2
            total[half:, :half] = total[:half, half:].T
            total /= count
        scale = 1 / (12 * 127**2 * count)
        noise = {tap: {size: total * scale for size, total in found.items()} for tap, found in self._squares.items()}
        taps = graph.taps.items()
        return {name: self._products[tap] for name, tap in taps}, {name: noise[tap] for name, tap in taps}


def _add_products(given: Sequence[tuple[Doubles, Floats]]) -> None:
    """Add x' x [K, K] of rows x [R, K] to totals, but for the quarter below the diagonal, which is another's mirror."""
    pieces = []
    for total, x in given:
        half = x.shape[1] // 2
        pieces += [(total[:half, half:], x[:, :half], x[:, half:])]
        pieces += [(total[part, part], x[:, part], x[:, part]) for part in (slice(half), slice(half, None))]

    def add(piece: tuple[Doubles, Floats, Floats]) -> None:
        total, first, second = piece
        total += first.T @ second

    in_parallel(add, pieces)


def _largest(x: Floats, block_size: int) -> Floats:
    """Return for each of the inputs [R, K] the square of the largest in its block."""
    starts = np.arange(0, x.shape[1], block_size)
    largest = np.maximum.reduceat(np.square(x), starts, axis=1)
    return np.repeat(largest, block_size, axis=1)[:, : x.shape[1]]
