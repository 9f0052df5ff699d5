"""Scales of channels for a plan: outliers of the inputs go into the matrices, where blocks can round them.

Found layer by layer on the text, before anything is rounded; the model stays the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.hessians import Doubles, hessians, through
from skipstone.calibrate.layer_graphs import LayerGraphs
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import ModelWeights
from skipstone.exporters.transforms import Folding, FoldPoint, apply, fold_points
from skipstone.quant import TensorRecipe, awq_scales, quantize

__all__ = ["with_scales"]

Floats: TypeAlias = NDArray[np.float32]
# What is added to the diagonal of a Hessian, as a share of its mean, so that it has a root.
_DAMPING: Final = 1e-4
# Powers of the inputs' size that are tried; on real models 0.3 to 0.5 are best nearly everywhere.
_ALPHAS: Final = (0.0, 0.2, 0.3, 0.4, 0.5, 0.65)


def with_scales(
    plan: ExportPlan, graphs: LayerGraphs, token_ids: NDArray[np.int64], on_progress: Callable[[float], None]
) -> ExportPlan:
    """Return the plan with scales folded where its matrices then round better on windows of tokens [B, T].

    `on_progress` gets the share that is done. Source: AWQ (Lin et al., 2024).
    """
    points, scales = fold_points(plan.architecture), dict[str, Floats]()
    weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
    with graphs.embedding() as graph:
        states = graph.embed(token_ids)
    for layer in range(graphs.num_layers):
        own = {name: point for name, point in points.items() if name.startswith(f"layers.{layer}.")}
        with graphs.layer(layer, tap=lambda name: plan.recipe.for_tensor(name).bits < 32) as graph:
            found, states = hessians(graph, states), through(graph, states)
        for name, point in own.items():
            if (hessian := _hessian_of(name, found)) is not None and not _keeps_integers(weights, point):
                real = _real_channels(len(hessian), len(point.columns), plan.architecture.dimensions.num_heads)
                scales[name] = _scales(point, weights, hessian[np.ix_(real, real)], plan.recipe.for_tensor(name))
        on_progress((layer + 1) / graphs.num_layers)
    return _folded(plan, {name: scale for name, scale in scales.items() if np.ptp(scale) > 0})


def _hessian_of(name: str, found: Mapping[str, Doubles]) -> Doubles | None:
    """Return the Hessian of a matrix, or of its parts, which read the same inputs."""
    return found.get(name, found.get(f"{name}.0"))


def _keeps_integers(weights: ModelWeights, point: FoldPoint) -> bool:
    """Whether a matrix at a place keeps its integers: folded into, it would be rounded again."""
    producer = () if point.producer.endswith("_norm") else (point.producer,)
    return any(weights.keeps_integers(name, point.layer) for name in (*producer, *point.readers))


def _real_channels(num_inputs: int, num_columns: int, num_heads: int) -> NDArray[np.int64]:
    """Return which inputs are columns of the matrix: not those that fill up its heads."""
    if num_inputs == num_columns:
        return np.arange(num_columns)
    return np.arange(num_inputs).reshape(num_heads, -1)[:, : num_columns // num_heads].ravel()


def _scales(point: FoldPoint, weights: ModelWeights, hessian: Doubles, rule: TensorRecipe) -> Floats:
    """Return the scales of one place."""
    diagonal = np.diag(hessian)
    damped = hessian + np.diag(np.full(len(hessian), _DAMPING * diagonal.mean() + 1e-12))
    matrices = [weights.read(reader, point.layer) for reader in point.readers]

    def rounded(matrix: Floats) -> Floats:
        return quantize(
            matrix, bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric, method="absmax"
        ).dequantize()

    root = np.asarray(np.linalg.cholesky(damped).T, np.float32)
    sizes = np.sqrt(diagonal).astype(np.float32)
    return awq_scales(sizes, matrices, root, rounded, columns=point.columns, alphas=_ALPHAS)


def _folded(plan: ExportPlan, scales: Mapping[str, Floats]) -> ExportPlan:
    tensors = apply([Folding(scales)], plan.architecture, plan.checkpoint.tensors).tensors
    return replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors))
