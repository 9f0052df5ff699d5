"""Scales of channels for a plan: outliers of the inputs go into the matrices, where blocks can round them.

Found layer by layer on the text, before anything is rounded; the model stays the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.hessians import Doubles, hessians, largest_inputs, look, through
from skipstone.calibrate.layer_graphs import LayerGraph, LayerGraphs
from skipstone.calibrate.threads import in_parallel
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import ModelWeights
from skipstone.exporters.transforms import Folding, FoldPoint, apply, fold_points
from skipstone.quant import ScaleRecipe, TensorRecipe, awq_scales, quantize, smooth_scales

__all__ = ["with_scales"]

Floats: TypeAlias = NDArray[np.float32]
# What is added to the diagonal of a Hessian, as a share of its mean, so that it has a root.
_DAMPING: Final = 1e-4
_WINDOWS: Final = 16  # of the text at most: sizes of channels need fewer than losses of weights


def with_scales(
    plan: ExportPlan, graphs: LayerGraphs, token_ids: NDArray[np.int64], on_progress: Callable[[float], None]
) -> ExportPlan:
    """Return the plan with the scales of its recipe folded; `awq` and `smooth` find them on windows of tokens [B, T].

    `on_progress` gets the share that is done.
    """
    if plan.recipe.scales is None or not plan.recipe.scales.reads_text:
        return plan.with_gains()
    run = _Run(plan, graphs, plan.recipe.scales)
    with graphs.embedding() as graph:
        states = graph.embed(token_ids[:: -(-len(token_ids) // _WINDOWS)])
    for layer in range(graphs.num_layers):
        with graphs.layer(layer, tap=run.is_rounded) as graph:
            found, states = run.look(graph, states)
        run.find(f"layers.{layer}.", found)
        on_progress((layer + 1) / graphs.num_layers)
    if "head" in run.points:
        with graphs.head(tap=run.is_rounded) as graph:
            run.find("head", run.inputs(graph, states))
    return _folded(plan, {name: scale for name, scale in run.scales.items() if np.ptp(scale) > 0})


class _Run:
    """Finds the scales of all places of a plan, a graph after the other."""

    def __init__(self, plan: ExportPlan, graphs: LayerGraphs, recipe: ScaleRecipe) -> None:
        self._plan, self._recipe = plan, recipe
        self._weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
        self.points = fold_points(plan.architecture)
        self.scales: dict[str, Floats] = {}

    def is_rounded(self, name: str) -> bool:
        return self._plan.recipe.for_tensor(name).bits < 32

    def look(self, graph: LayerGraph, states: Floats) -> tuple[Mapping[str, Doubles], Floats]:
        """Return what is known of the inputs of a layer's products, and the states behind it."""
        if self._recipe.method == "smooth":
            return self.inputs(graph, states), through(graph, states)
        seen = look(graph, states)
        return seen.means, seen.states

    def inputs(self, graph: LayerGraph, states: Floats) -> Mapping[str, Doubles]:
        return largest_inputs(graph, states) if self._recipe.method == "smooth" else hessians(graph, states)

    def find(self, prefix: str, found: Mapping[str, Doubles]) -> None:
        """Find the scales of the places whose names begin so, by what is known of their inputs."""
        searches = list[Callable[[], tuple[str, Floats]]]()
        for name, point in self.points.items():
            known = _inputs_of(name, found) if name.startswith(prefix) else None
            if known is not None and self.is_rounded(name) and not self._keeps_integers(point):
                real = _real_channels(len(known), len(point.columns), self._plan.architecture.dimensions.num_heads)
                searches.append(self._search(name, point, known[np.ix_(*(real,) * known.ndim)]))
        self.scales |= dict(in_parallel(lambda search: search(), searches))

    def _search(self, name: str, point: FoldPoint, inputs: Doubles) -> Callable[[], tuple[str, Floats]]:
        """Return what finds the scales of one place, and needs no file any more."""
        matrices, alphas, rule = self._matrices(point), self._recipe.alphas, self._plan.recipe.for_tensor(name)
        if self._recipe.method == "smooth":
            largest = inputs.astype(np.float32)
            return lambda: (name, smooth_scales(largest, matrices, alpha=alphas[0], columns=point.columns))
        return lambda: (name, _awq_scales(point, inputs, matrices, alphas, rule))

    def _keeps_integers(self, point: FoldPoint) -> bool:
        """Whether a matrix at a place keeps its integers: folded into, it would be rounded again."""
        producer = () if point.producer.endswith("_norm") else (point.producer,)
        architecture, tensors = self._plan.architecture, self._plan.checkpoint.tensors
        return any(
            tensors.is_quantized(theirs)
            for name in (*producer, *point.readers)
            for theirs in architecture.stored_names(name, point.layer)
        )

    def _matrices(self, point: FoldPoint) -> list[Floats]:
        """Return the matrices behind a place that are rounded, of all experts."""
        experts = self._plan.architecture.experts
        numbers = range(0 if experts is None else experts.num_experts)
        matrices = []
        for name in point.readers:
            if name.startswith("expert_"):
                matrices += [self._weights.read(name, point.layer, expert=expert) for expert in numbers]
            elif name != "router":
                matrices.append(self._weights.read(name, point.layer))
        return matrices


def _awq_scales(
    point: FoldPoint, hessian: Doubles, matrices: Sequence[Floats], alphas: Sequence[float], rule: TensorRecipe
) -> Floats:
    diagonal = np.diag(hessian)
    damped = hessian + np.diag(np.full(len(hessian), _DAMPING * diagonal.mean() + 1e-12))

    def rounded(matrix: Floats) -> Floats:
        return quantize(
            matrix, bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric, method="absmax"
        ).dequantize()

    root = np.asarray(np.linalg.cholesky(damped).T, np.float32)
    sizes = np.sqrt(diagonal).astype(np.float32)
    return awq_scales(sizes, matrices, root, rounded, columns=point.columns, alphas=alphas)


def _inputs_of(name: str, found: Mapping[str, Doubles]) -> Doubles | None:
    """Return what is known of the inputs of a matrix, or of its parts, which read the same; experts as their router."""
    router = f"{name.removesuffix('experts')}router" if name.endswith(".experts") else name
    return found.get(name, found.get(f"{name}.0", found.get(router)))


def _real_channels(num_inputs: int, num_columns: int, num_heads: int) -> NDArray[np.int64]:
    """Return which inputs are columns of the matrix: not those that fill up its heads."""
    if num_inputs == num_columns:
        return np.arange(num_columns)
    return np.arange(num_inputs).reshape(num_heads, -1)[:, : num_columns // num_heads].ravel()


def _folded(plan: ExportPlan, scales: Mapping[str, Floats]) -> ExportPlan:
    tensors = apply([Folding(scales)], plan.architecture, plan.checkpoint.tensors).tensors
    return replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors))
