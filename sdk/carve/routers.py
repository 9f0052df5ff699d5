"""Three ways to score experts without training.

Shapes: T tokens, E hidden size, R experts of M neurons each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.carve.activations import FfnActivations
from skipstone.carve.clusters import Clusters

__all__ = ["ROUTERS", "Router"]

Floats: TypeAlias = NDArray[np.float32]
_DAMPING: Final = 0.05  # of the mean of the diagonal
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """What scores the experts of `clusters`: `tensors`, by our names, for a router of that `kind` of `CarvedFfn`."""

    kind: str
    clusters: Clusters
    tensors: Mapping[str, Floats]

    def scores(self, text: FfnActivations) -> Floats:
        """Return the scores of experts at each token, [T, R]."""
        if self.kind == "linear":
            scores: Floats = text.x @ self.tensors["expert_router"].T + self.tensors["expert_offset"]
            return scores
        neurons = self.clusters.shared[: len(self.clusters.experts)]
        gains = self.tensors["expert_gain"] * text.lengths[neurons]
        sizes: Floats = np.abs(text.inner[:, neurons]) * gains
        return sizes


def by_neuron(text: FfnActivations, clusters: Clusters) -> Router:
    """The size of the typical neuron of each expert, which is shared from then on: so nothing more is computed.

    The least important shared neurons take their places. Source: CMoE (Pei et al., 2025).
    """
    count = len(clusters.experts)
    swapped = clusters.shared[-count:]
    places = clusters.experts == clusters.typical[:, None]
    experts = clusters.experts.copy()
    experts[places] = swapped
    shared = np.concatenate([clusters.typical, clusters.shared[:-count]])
    gains = (1 / np.maximum(text.lengths[clusters.typical], _TINY)).astype(np.float32)
    return Router("neuron", replace(clusters, experts=experts, shared=shared), {"expert_gain": gains})


def by_centre(text: FfnActivations, clusters: Clusters) -> Router:
    """The input times the mean row of the gate. Source: Avg-K (Liu et al., 2023)."""
    rows = text.gate[clusters.experts].mean(axis=1)
    return _linear(clusters, rows, np.zeros(len(rows)))


def by_fit(text: FfnActivations, clusters: Clusters) -> Router:
    """The linear function of the input that is nearest to what each expert adds, by least squares."""
    added = text.added
    wanted = np.sqrt(np.stack([np.square(added[:, own]).sum(axis=1) for own in clusters.experts], axis=1))
    x = text.x.astype(np.float64)
    middle, mean = x.mean(axis=0), wanted.mean(axis=0)
    inner = (x - middle).T @ (x - middle)
    inner[np.diag_indices_from(inner)] += _DAMPING * np.diag(inner).mean() + _TINY
    rows = np.linalg.solve(inner, (x - middle).T @ (wanted - mean)).T
    return _linear(clusters, rows, mean - rows @ middle)


ROUTERS: Final[Mapping[str, Callable[[FfnActivations, Clusters], Router]]] = {
    "neuron": by_neuron,
    "centre": by_centre,
    "fit": by_fit,
}


def _linear(clusters: Clusters, rows: NDArray[np.floating], offsets: NDArray[np.floating]) -> Router:
    tensors = {"expert_router": rows.astype(np.float32), "expert_offset": offsets.astype(np.float32)}
    return Router("linear", clusters, tensors)
