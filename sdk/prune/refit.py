"""What is left of narrowed FFNs, fitted so that it makes up for the channels that are gone.

Shapes: W windows, T tokens of each, E hidden size, I inner width before, J after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraphs, batches, hessians, through
from skipstone.devices import open_device
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import ModelWeights
from skipstone.exporters.transforms import NarrowFfn, apply

__all__ = ["fitted_matrix", "narrowed_plan", "refitted"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
_DAMPING: Final = 0.01  # of the mean of the diagonal


def refitted(
    plan: ExportPlan,
    narrow: NarrowFfn,
    token_ids: NDArray[np.int64],
    folder: Path,
    on_progress: Callable[[float], None],
) -> NarrowFfn:
    """Return the same narrowing with new matrices behind the channels, layer by layer, for windows of tokens [W, T].

    Each takes the channels that stay to what all of them gave, as nearly as a least-squares fit does, behind the
    layers that are narrowed already. Cost: two passes through the layers.
    """
    graphs, device = LayerGraphs(plan, open_device(), folder), open_device()
    weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
    down = dict[int, Floats]()
    with graphs.embedding() as graph:
        states = np.concatenate([graph.embed(token_ids[batch]) for batch in batches(token_ids)])
    for layer in range(graphs.num_layers):
        if layer not in narrow.channels:
            with graphs.layer(layer) as graph:
                states = through(graph, states)
            continue
        name, kept = f"layers.{layer}.down", narrow.channels[layer]
        with graphs.layer(layer, tap=name.__eq__) as graph:
            down[layer] = fitted_matrix(weights.read("down", layer), hessians(graph, states)[name], np.array(kept))
        own = NarrowFfn({layer: kept}, {layer: down[layer]})
        with LayerGraphs(narrowed_plan(plan, own), device, folder).layer(layer) as graph:
            states = through(graph, states)
        on_progress((layer + 1) / graphs.num_layers)
    return NarrowFfn(narrow.channels, down)


def narrowed_plan(plan: ExportPlan, narrow: NarrowFfn) -> ExportPlan:
    """Return the plan of the narrowed model."""
    architecture, tensors, _ = apply([narrow], plan.architecture, plan.checkpoint.tensors)
    return replace(plan, architecture=architecture, checkpoint=replace(plan.checkpoint, tensors=tensors))


def fitted_matrix(matrix: Floats, hessian: Doubles, kept: NDArray[np.int64]) -> Floats:
    """Return [E, J] for which `matrix` [E, I] times inputs with a mean outer product [I, I] is nearest."""
    inner = hessian[np.ix_(kept, kept)]
    inner[np.diag_indices_from(inner)] += _DAMPING * np.diag(hessian).mean() + 1e-12
    # The damping draws towards the numbers that are there, not towards none.
    missing = matrix.astype(np.float64).copy()
    missing[:, kept] = 0
    change = np.linalg.solve(inner, hessian[kept] @ missing.T).T
    fitted: Floats = (matrix[:, kept] + change).astype(np.float32)
    return fitted
