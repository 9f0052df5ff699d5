"""What stands in for an expert that is left out: a vector, by least squares, layer after layer.

Each layer is fitted on what it reads behind the sparse layers before it, so that it knows of their errors. What is
wanted is the layer's own dense output there, so only the model itself teaches.

Shapes: B windows, T tokens of each, N tokens, E hidden size, I inner width, R routed experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph, batches
from skipstone.carve.activations import FfnActivations
from skipstone.carve.routers import Router

__all__ = ["SparseLayer", "SparseStates", "StandIns", "mean_kl", "open_ffn"]

Floats: TypeAlias = NDArray[np.float32]
_DAMPING: Final = 1e-3  # of the mean of the diagonal
_MASK: Final = "ffn_mask"
_ADDED: Final = "ffn_added"


def open_ffn(model: ir.Model) -> None:
    """Give the graph of a layer two inputs: by which its neurons are multiplied, and what its FFN adds beside them."""
    graph = model.graph
    for node in [*graph]:
        x, matrix = (*node.inputs[:2], None, None)[:2]
        if node.op_type in ("MatMul", "Gemm") and x is not None and _is_down(matrix):
            mask, added = (
                ir.val(name, ir.DataType.FLOAT, [f"{name}_{n}" for n in range(3)]) for name in (_MASK, _ADDED)
            )
            graph.inputs.extend([mask, added])
            masked = ir.node("Mul", [x, mask], num_outputs=1, name=_MASK)
            graph.insert_before(node, masked)
            node.replace_input_with(0, masked.outputs[0])
            uses = [*node.outputs[0].uses()]
            whole = ir.node("Add", [node.outputs[0], added], num_outputs=1, name=_ADDED)
            graph.insert_after(node, whole)
            for user, place in uses:
                user.replace_input_with(place, whole.outputs[0])


def _is_down(matrix: ir.Value | None) -> bool:
    return matrix is not None and (matrix.name or "").removesuffix(".transposed").endswith(".down")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseLayer:
    """A carved layer: its router, how many routed experts run, and its matrices, in an activation without tokens."""

    router: Router
    num_active: int
    matrices: FfnActivations
    scale: float


@dataclass(slots=True, eq=False)
class StandIns:
    """The sums of a least-squares fit of the vectors of one layer."""

    gram: NDArray[np.float64]
    product: NDArray[np.float64]

    @classmethod
    def empty(cls, num_routed: int, hidden_size: int) -> StandIns:
        """Return the sums over no token."""
        return cls(np.zeros((num_routed, num_routed)), np.zeros((num_routed, hidden_size)))

    def add(self, left_out: Floats, missing: Floats) -> None:
        """Add tokens: which experts are left out [N, R], and what their neurons would have given [N, E]."""
        left = left_out.astype(np.float64)
        self.gram += left.T @ left
        self.product += left.T @ missing.astype(np.float64)

    def solve(self) -> Floats:
        """Return the vectors, [E, R]; zeros where nothing is left out."""
        gram = self.gram.copy()
        gram[np.diag_indices_from(gram)] += _DAMPING * np.diag(gram).mean() + 1e-9
        return np.ascontiguousarray(np.linalg.solve(gram, self.product).T.astype(np.float32))


class SparseStates:
    """The states [B, T, E] of a text in the sparse model, of which the first `num_fitted` windows are learned from."""

    def __init__(self, states: Floats, num_fitted: int) -> None:
        self.states, self._num_fitted = states, num_fitted

    def pass_dense(self, graph: LayerGraph) -> None:
        """Go through a layer that is not carved."""
        self.states = np.concatenate([graph.states(self.states[batch]) for batch in batches(self.states)])

    def fit(self, graph: LayerGraph, name: str, layer: SparseLayer) -> Floats:
        """Return what stands in for the experts of a layer, [E, R]."""
        down = layer.matrices.down
        sums = StandIns.empty(len(layer.router.clusters.experts), len(down))
        fitted = self.states[: self._num_fitted]
        for batch in batches(fitted):
            text = _read(graph, name, fitted[batch], layer)
            left_out, mask = _left_out(text, layer)
            missing: Floats = (text.inner - text.inner * mask) @ down.T
            sums.add(left_out, missing)
        return sums.solve()

    def pass_sparse(self, graph: LayerGraph, name: str, layer: SparseLayer, rests: Floats | None) -> None:
        """Go through a carved layer, with what stands in for experts that are left out, if anything does."""
        behind = list[Floats]()
        for batch in batches(self.states):
            states = self.states[batch]
            left_out, mask = _left_out(_read(graph, name, states, layer), layer)
            added = np.zeros((1, 1, 1), np.float32)
            if rests is not None:
                added = (left_out @ rests.T * np.float32(layer.scale)).reshape(*states.shape)
            behind.append(graph.states(states, {_MASK: mask.reshape(*states.shape[:2], -1), _ADDED: added}))
        self.states = np.concatenate(behind)


def _read(graph: LayerGraph, name: str, states: Floats, layer: SparseLayer) -> FfnActivations:
    """Return what the whole FFN of a layer reads and does."""
    given = {_MASK: np.ones((1, 1, 1), np.float32), _ADDED: np.zeros((1, 1, 1), np.float32)}
    inputs = graph.inputs(states, given)
    x, inner = (inputs[graph.taps[f"{name}.{kind}"]] for kind in ("gate_up", "down"))
    return replace(layer.matrices, x=x, inner=inner)


def _left_out(text: FfnActivations, layer: SparseLayer) -> tuple[Floats, Floats]:
    """Return 1 for the experts of each token that are left out, [N, R], and 1 for neurons that run, [N, I]."""
    experts = layer.router.clusters.experts
    order = np.argsort(-layer.router.scores(text), axis=1, kind="stable")
    left_out = np.zeros((len(order), len(experts)), np.float32)
    np.put_along_axis(left_out, order[:, layer.num_active :], 1, axis=1)
    mask = np.ones(text.inner.shape, np.float32)
    mask[:, experts.ravel()] = np.repeat(1 - left_out, experts.shape[1], axis=1)
    return left_out, mask


def mean_kl(head: LayerGraph, wanted: Floats, found: Floats) -> float:
    """Return KL(wanted || found) in nats per token, of states [B, T, E] before the head."""
    total = 0.0
    for ours, theirs in zip(wanted, found, strict=True):
        laws = [_log_probs(head.logits(states[None]).copy()) for states in (ours, theirs)]
        total += float((np.exp(laws[0]) * (laws[0] - laws[1])).sum(dtype=np.float64))
    return total / float(np.prod(wanted.shape[:2]))


def _log_probs(logits: Floats) -> Floats:
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits
