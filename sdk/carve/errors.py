"""What carved FFNs lose: the error of their output on tokens that were held back.

Shapes: T tokens, E hidden size, R experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from skipstone.carve.activations import FfnActivations
from skipstone.carve.clusters import CLUSTERINGS
from skipstone.carve.routers import ROUTERS, Router
from skipstone.exporters.families import CarvedFfn

__all__ = ["ErrorTable", "candidates", "output_error"]

Errors: TypeAlias = Mapping[str, float]


def candidates(text: FfnActivations, ffn: CarvedFfn, wanted: str | None = None) -> Iterator[tuple[str, Router]]:
    """Yield each way to carve an FFN, as `clusters/router`, or the one that is wanted."""
    for clustering, cluster in CLUSTERINGS.items():
        if wanted is not None and wanted.partition("/")[0] != clustering:
            continue
        clusters = cluster(text, ffn)
        for name, route in ROUTERS.items():
            fits = name != "neuron" or len(clusters.shared) >= ffn.num_routed
            if fits and wanted in (None, f"{clustering}/{name}"):
                yield f"{clustering}/{name}", route(text, clusters)


def output_error(text: FfnActivations, router: Router, num_active: int) -> float:
    """Return the squared error of the output with so many routed experts, as a share of the output's square."""
    whole = text.inner @ text.down.T
    left_out = np.argsort(-router.scores(text), axis=1, kind="stable")[:, num_active:]
    inner = np.zeros_like(text.inner)
    rows = np.arange(len(inner))[:, None]
    for place in range(left_out.shape[1]):
        neurons = router.clusters.experts[left_out[:, place]]
        inner[rows, neurons] = text.inner[rows, neurons]
    missing = inner @ text.down.T
    total = float(np.square(whole, dtype=np.float64).sum())
    return float(np.square(missing, dtype=np.float64).sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """The errors of each layer [layers], by the way in which it could be carved; the ways are compared by their means.

    Where a way does not fit a layer, the layer has no error of it.
    """

    layers: tuple[Errors, ...]

    @property
    def means(self) -> Errors:
        """The mean error of each way that fits all layers, smallest first."""
        common = set.intersection(*(set(errors) for errors in self.layers))
        means = {way: float(np.mean([errors[way] for errors in self.layers])) for way in common}
        return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))

    def __str__(self) -> str:
        return "output error " + ", ".join(f"{way} {100 * error:.1f} %" for way, error in self.means.items())
