"""The parts of a decoder as ONNX nodes: embedding, layers of attention and FFN, head.

Shapes: B batch, T tokens, W tokens blended in one position, E hidden size, R rows that logits are wanted for,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.families import Architecture, CarvedFfn
from skipstone.exporters.graph.attention import Attention
from skipstone.exporters.graph.carved_ffn import SparseFfn, halves
from skipstone.exporters.graph.expert_rows import integers
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.linear import Linear
from skipstone.exporters.graph.mixture import mixture
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.step_inputs import StepInputs
from skipstone.exporters.graph.variant import PLAIN, GraphVariant
from skipstone.quant import Recipe
from skipstone.runtime.bundle import SPARSE

__all__ = ["Blocks", "Residual"]


@dataclass(frozen=True, slots=True)
class Residual:
    """The running sum of the layers: `stream + update`, not yet added, so that the next norm can do it in one node."""

    stream: ir.Value
    update: ir.Value | None = None


class Blocks:
    """Writes the parts of one architecture, in one precision, to one graph."""

    def __init__(
        self,
        kernels: Kernels,
        architecture: Architecture,
        weights: ModelWeights,
        recipe: Recipe,
        variant: GraphVariant = PLAIN,
    ) -> None:
        self._kernels, self._pen = kernels, kernels.pen
        self._architecture, self._weights, self._recipe, self._variant = architecture, weights, recipe, variant
        self._linear = Linear(kernels, recipe)
        self._routed_counts: ir.Value | None = None
        self._attention = Attention(kernels, architecture, weights, self._linear, variant.cache_scales)

    def embed(self, token_ids: ir.Value, blend: ir.Value | None, step: StepInputs) -> Residual:
        """[B, T, W] ids and their weights to the weighted sum of W embeddings [B, T, E], learned positions added.

        Without weights W is 1.
        """
        pen, a = self._pen, self._architecture
        rows = self._linear.rows(self._embedding_name, token_ids, self._weights.embedding)
        hidden = self._blended(rows, blend, "embedding_scale", a.embedding_scale)
        if not a.has("positions"):
            return Residual(hidden)
        table = pen.weight("positions", lambda: self._weights.read("positions"))
        return Residual(hidden, pen.op("Gather", table, pen.some_rows(step.position_ids, step.token_rows)))

    def _blended(self, rows: ir.Value, blend: ir.Value | None, name: str, factor: float) -> ir.Value:
        """Return `factor` times the sum of W rows with their weights: [B, T, W, N] and [B, T, W] to [B, T, N]."""
        pen, axis = self._pen, self._pen.constant("blend_axis", np.array([2], np.int64))
        if blend is None:
            alone = pen.op("Squeeze", rows, axis)
            return alone if factor == 1 else pen.op("Mul", alone, pen.number(name, factor))
        if factor != 1:
            blend = pen.op("Mul", blend, pen.number(name, factor))
        return pen.op("Squeeze", pen.op("MatMul", pen.op("Unsqueeze", blend, axis), rows), axis)

    def layer(self, residual: Residual, layer: int, step: StepInputs) -> Residual:
        """Attention, then the FFN, each with the norms that the architecture has; or both on the same input."""
        a = self._architecture
        if a.parallel:
            return self._parallel(residual, layer, step)
        if a.has_attention(layer):
            normed, residual = self._enter(residual, "attention_norm", layer)
            update = self._leave(self._attention(normed, layer, step), "attention_out_norm", layer)
            residual = Residual(residual.stream, update)
        if a.has_ffn(layer):
            normed, residual = self._enter(residual, "ffn_norm", layer)
            residual = Residual(residual.stream, self._leave(self.feed_forward(normed, layer), "ffn_out_norm", layer))
        return residual

    def write_cache(self, residual: Residual, layer: int, step: StepInputs) -> None:
        """Write the keys and values of the last layer that has some, and nothing for what follows."""
        normed, _ = self._enter(residual, "attention_norm", layer)
        self._attention.mix(normed, layer, step)

    def _parallel(self, residual: Residual, layer: int, step: StepInputs) -> Residual:
        """Attention and FFN of the same input, with one norm or two."""
        a, updates = self._architecture, list[ir.Value]()
        if a.has_attention(layer) or not a.has("ffn_norm"):
            normed, residual = self._enter(residual, "attention_norm", layer)
        else:
            residual = Residual(self.add_up(residual))
        if a.has_attention(layer):
            updates.append(self._leave(self._attention(normed, layer, step), "attention_out_norm", layer))
        if a.has_ffn(layer):
            if a.has("ffn_norm"):
                normed, _ = self._enter(Residual(residual.stream), "ffn_norm", layer)
            updates.append(self.feed_forward(normed, layer))
        return Residual(residual.stream, updates[0] if len(updates) == 1 else self._pen.op("Add", *updates))

    def _enter(self, residual: Residual, name: str, layer: int) -> tuple[ir.Value, Residual]:
        """Return what a block reads, normed where the architecture has that norm, and the residual all added up."""
        if not self._architecture.has(name):
            total = self.add_up(residual)
            return total, Residual(total)
        normed, total = self.norm(residual, f"layers.{layer}.{name}", *self._norm_weights(name, layer))
        return normed, Residual(total)

    def _leave(self, update: ir.Value, name: str, layer: int) -> ir.Value:
        """Return what a block adds to the stream, normed where the architecture has that norm."""
        if not self._architecture.has(name):
            return update
        return self.norm(Residual(update), f"layers.{layer}.{name}", *self._norm_weights(name, layer))[0]

    def _norm_weights(self, name: str, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        return self._weights.gain(name, layer), self._weights.bias(name, layer)

    def norm(
        self, residual: Residual, key: str, gain: NDArray[np.float32], bias: NDArray[np.float32] | None
    ) -> tuple[ir.Value, ir.Value]:
        """Return the normed sum and the sum itself."""
        pen, kind, epsilon = self._pen, self._architecture.norm, self._architecture.norm_epsilon
        weights = [pen.weight(key, lambda: gain)]
        if bias is not None:
            weights.append(pen.weight(f"{key}.bias", lambda: bias))
        if residual.update is None:
            return self._kernels.norm(kind, residual.stream, *weights, epsilon=epsilon), residual.stream
        return self._kernels.norm_sum(kind, residual.stream, residual.update, *weights, epsilon=epsilon)

    def add_up(self, residual: Residual) -> ir.Value:
        """Return the sum itself, [B, T, E]."""
        if residual.update is None:
            return residual.stream
        return self._pen.op("Add", residual.stream, residual.update)

    def feed_forward(self, x: ir.Value, layer: int) -> ir.Value:
        """[B, T, E] to [B, T, E] update: down(act(gate(x)) * up(x)), down(act(up(x))), or a mixture of such."""
        a, pen, w = self._architecture, self._pen, self._weights
        if a.is_mixture(layer):
            return self._mixture(x, layer)
        carved = a.carved_ffn(layer)
        if carved is not None and self._variant.kind == SPARSE:
            return self._sparse(x, layer, carved)
        is_gated = a.has("gate") or a.has("gate_up")
        name = f"layers.{layer}.{'gate_up' if is_gated else 'up'}"
        inner = self._linear(x, name, lambda: w.inner(layer), w.inner_bias(layer))
        if is_gated:
            split = pen.op_outputs("Split", inner, count=2, axis=-1, num_outputs=2) if carved is None else None
            gate, up = split or halves(pen, inner)
            inner = pen.op("Mul", self._gate(gate, layer), up)
        else:
            inner = self._activate(inner)
        return self._linear(inner, f"layers.{layer}.down", lambda: [w.down(layer)], w.scaled_bias("down", layer))

    def _sparse(self, x: ir.Value, layer: int, carved: CarvedFfn) -> ir.Value:
        """As `feed_forward`, with the experts only that score highest; their number is that of the layer."""
        w, biases = self._weights, (self._weights.inner_bias(layer), self._weights.scaled_bias("down", layer))
        ffn = SparseFfn(
            self._kernels,
            self._recipe,
            carved,
            f"layers.{layer}",
            gate_up=lambda: w.alternating_inner(layer),
            down=lambda: w.down(layer),
            biases=biases,
        )
        borders = (integers(self._pen, number) for number in (layer, layer + 1))
        count = self._pen.op("Slice", self._num_routed(), *borders)
        activation = self._architecture.activation
        rests = None
        if carved.has_rests:
            rests = self._pen.weight(f"layers.{layer}.expert_rest", lambda: w.expert_rest(layer))
        return ffn(x, count, activation, lambda x, inner: self._scores(x, inner, layer, carved), rests)

    def _num_routed(self) -> ir.Value:
        """Return how many routed experts are active in each layer [L], by an input that counts the shared ones too."""
        if self._routed_counts is None:
            carving = self._architecture.carving
            assert carving is not None, "a carved FFN is part of a carving"
            active = self._pen.input("active_experts", ir.DataType.INT64, (len(carving.layers),))
            self._routed_counts = self._pen.op("Sub", active, integers(self._pen, carving.num_shared))
        return self._routed_counts

    def _scores(self, x: ir.Value, inner: ir.Value, layer: int, carved: CarvedFfn) -> ir.Value:
        """Return the scores of experts [B, T, R], of x or of what the neurons that are always active give."""
        pen, w = self._pen, self._weights
        if carved.router == "linear":
            router = pen.weight(f"layers.{layer}.expert_router", lambda: w.read("expert_router", layer).T)
            offset = pen.weight(f"layers.{layer}.expert_offset", lambda: w.read("expert_offset", layer))
            return pen.op("Add", pen.op("MatMul", x, router), offset)
        gain = pen.weight(f"layers.{layer}.expert_gain", lambda: w.expert_gain(layer))
        first = [integers(pen, number) for number in (0, carved.num_routed, -1)]
        return pen.op("Mul", pen.op("Abs", pen.op("Slice", inner, *first)), gain)

    def _gate(self, x: ir.Value, layer: int) -> ir.Value:
        """Return what the other half of an FFN is multiplied by."""
        return self._activate(x)

    def _activate(self, x: ir.Value) -> ir.Value:
        return self._kernels.activate(self._architecture.activation, x)

    def _mixture(self, x: ir.Value, layer: int) -> ir.Value:
        experts, w, name = self._architecture.experts, self._weights, f"layers.{layer}.experts"
        assert experts is not None, "a mixture has experts"
        # Routing is sensitive and its matrix small: it stays in numbers.
        router = self._pen.weight(f"layers.{layer}.router", lambda: w.read("router", layer).T)
        return mixture(
            self._kernels,
            x,
            self._pen.op("MatMul", x, router),
            experts,
            name=name,
            rule=self._recipe.for_tensor(name),
            gate_up=lambda expert: w.expert_inner(layer, expert),
            down=lambda expert: w.expert_down(layer, expert),
        )

    def head(self, hidden: ir.Value, rows: ir.Value | None, *, by_row: bool = False) -> ir.Value:
        """[B, T, E] before the final norm to logits [R, V] of the rows asked for, numbered over B * T; None is all.

        The matrix is stored `by_row` where another graph reads some of its rows.
        """
        asked, shared = self._asked(hidden, rows), by_row or self._architecture.tied_embedding
        return self._capped(self._linear(asked, "head", lambda: [self._weights.head()], shared=shared, rank=2))

    def draft_head(
        self, hidden: ir.Value, rows: ir.Value, extra_ids: ir.Value, num_first: int
    ) -> tuple[ir.Value, ir.Value]:
        """As `head`, for the `num_first` first tokens of the vocabulary, and for those of ids [P]: [R, P]."""
        first, extra = self._linear.some_rows(
            self._asked(hidden, rows), "head", self._weights.head, num_first, extra_ids
        )
        return self._capped(first), self._capped(extra)

    def _asked(self, hidden: ir.Value, rows: ir.Value | None) -> ir.Value:
        """Return what the head multiplies: the rows asked for after the final norm, [R, E]."""
        a, pen = self._architecture, self._pen
        flat = pen.op("Reshape", hidden, pen.constant("flat", np.array([-1, a.dimensions.hidden_size], np.int64)))
        asked = Residual(flat if rows is None else pen.op("Gather", flat, rows, axis=0))
        normed = self.norm(asked, "final_norm", *self._weights.final_norm())[0]
        if not a.has("head_turn"):
            return normed
        rule = self._recipe.for_tensor("head")
        return self._linear(normed, "head_turn", lambda: [self._weights.matrix("head_turn")], rule=rule, rank=2)

    def _capped(self, logits: ir.Value) -> ir.Value:
        pen, cap = self._pen, self._architecture.logit_cap
        return logits if cap is None else pen.op("Mul", pen.op("Tanh", logits), pen.number("logit_cap", cap))

    @property
    def _embedding_name(self) -> str:
        """Tied, embedding and head are one tensor under one name."""
        return "head" if self._architecture.tied_embedding else "embedding"
