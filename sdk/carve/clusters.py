"""Three ways to say which neurons are always active, and which others belong together.

Shapes: T tokens, E hidden size, I inner width, N of them in experts, R experts, S neurons that are always active.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.carve.activations import FfnActivations
from skipstone.carve.assignment import balanced
from skipstone.exporters.families import CarvedFfn

__all__ = ["CLUSTERINGS", "Clusters"]

Floats: TypeAlias = NDArray[np.floating]
Neurons: TypeAlias = NDArray[np.int64]
_MARKED: Final = 10  # neurons of a token
_ROUNDS: Final = 6
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """The neurons of each expert [R, M] and those that are `shared` [S], most important first.

    `typical` [R] is the neuron of each expert that is nearest to its centre.
    """

    experts: Neurons
    shared: Neurons
    typical: Neurons


def by_markers(text: FfnActivations, ffn: CarvedFfn) -> Clusters:
    """Neurons that are often among the largest of a token are shared; those that are so at the same tokens cluster.

    Source: CMoE (Pei et al., 2025).
    """
    marks = _marks(text)
    rates = marks.mean(axis=0)
    shared, rest = _split(rates, ffn)
    marked = marks[:, rest]
    centres = marked[:, np.argsort(-rates[rest], kind="stable")[: ffn.num_routed]]
    costs = marked.T @ (1 - 2 * centres) + centres.sum(axis=0)  # how many tokens differ
    groups = balanced(costs)
    centres = _means(marked, groups, ffn.num_routed)
    return _clusters(rest, shared, groups, marked.T @ (1 - 2 * centres) + centres.sum(axis=0))


def by_rows(text: FfnActivations, ffn: CarvedFfn) -> Clusters:
    """Neurons that add most are shared; those whose rows of the gate point the same way cluster.

    Source: balanced k-means of MoEfication (Zhang et al., 2022), heavy hitters of FFSplit (Liu et al., 2024).
    """
    shared, rest = _split(text.added.mean(axis=0), ffn)
    rows = _unit(text.gate[rest].T.astype(np.float64))
    first = np.random.default_rng(0).choice(len(rest), ffn.num_routed, replace=False)
    return _k_means(rest, shared, rows, rows[:, np.sort(first)], ffn)


def by_sizes(text: FfnActivations, ffn: CarvedFfn) -> Clusters:
    """Neurons that add most are shared; those that add much at the same tokens cluster: their sizes correlate.

    Source: heavy hitters of FFSplit (Liu et al., 2024), co-activation of MoEfication (Zhang et al., 2022).
    """
    added = text.added
    shared, rest = _split(added.mean(axis=0), ffn)
    sizes = added[:, rest]
    energies = np.square(sizes).mean(axis=0)
    sizes = _unit(sizes - sizes.mean(axis=0))
    return _k_means(rest, shared, sizes, sizes[:, np.argsort(-energies, kind="stable")[: ffn.num_routed]], ffn)


CLUSTERINGS: Final[Mapping[str, Callable[[FfnActivations, CarvedFfn], Clusters]]] = {
    "markers": by_markers,
    "k-means": by_rows,
    "sizes": by_sizes,
}


def _marks(text: FfnActivations) -> NDArray[np.float32]:
    """Return 1 for the largest neurons of each token, [T, I], with inputs and rows of length 1."""
    x = _unit(text.x.T).T
    gate, up = (x @ _unit(matrix.T) for matrix in (text.gate, text.up))
    sizes = np.abs(gate / (1 + np.exp(-gate)) * up)
    count = min(_MARKED, sizes.shape[1] - 1)
    largest = np.argpartition(-sizes, count, axis=1)[:, :count]
    marks = np.zeros(sizes.shape, np.float32)
    np.put_along_axis(marks, largest, 1, axis=1)
    return marks


def _split(scores: Floats, ffn: CarvedFfn) -> tuple[Neurons, Neurons]:
    """Return the neurons with the largest scores, which are shared, and the others in their order."""
    order = np.argsort(-scores, kind="stable")
    num_shared = len(order) - ffn.first_shared
    return order[:num_shared], np.sort(order[num_shared:])


def _k_means(rest: Neurons, shared: Neurons, vectors: Floats, centres: Floats, ffn: CarvedFfn) -> Clusters:
    """Cluster columns [.., N] of length 1 about centres [.., R], by their angles, in groups of equal size."""
    groups = balanced(-(vectors.T @ centres))
    for _ in range(_ROUNDS):
        centres = _unit(_means(vectors, groups, ffn.num_routed))
        before, groups = groups, balanced(-(vectors.T @ centres))
        if np.array_equal(before, groups):
            break
    centres = _unit(_means(vectors, groups, ffn.num_routed))
    return _clusters(rest, shared, groups, -(vectors.T @ centres))


def _clusters(rest: Neurons, shared: Neurons, groups: Neurons, distances: Floats) -> Clusters:
    members = [np.flatnonzero(groups == group) for group in range(distances.shape[1])]
    typical = [own[np.argmin(distances[own, group])] for group, own in enumerate(members)]
    return Clusters(rest[np.stack(members)], shared, rest[np.array(typical)])


def _means(columns: Floats, groups: Neurons, num_groups: int) -> Floats:
    return np.stack([columns[:, groups == group].mean(axis=1) for group in range(num_groups)], axis=1)


def _unit(columns: Floats) -> Floats:
    """Return columns of length 1; those of length 0 stay."""
    unit: Floats = columns / np.maximum(np.linalg.norm(columns, axis=0), _TINY)
    return unit
