"""The parts of a decoder as ONNX nodes: embedding, attention, FFN, head.

Shapes: B batch, T tokens, W tokens blended in one position, E hidden size, H heads, K kv heads, D head size,
C cache capacity, S total length (cached and new tokens), R rows that logits are wanted for, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.architecture import Architecture
from skipstone.exporters.experts import mixture
from skipstone.exporters.graph import MICROSOFT, GraphPen
from skipstone.exporters.linear import Linear
from skipstone.exporters.model_weights import ModelWeights, kernel_head_size
from skipstone.quant import Recipe

__all__ = ["FLOAT", "Blocks", "Residual", "StepInputs"]

FLOAT = ir.DataType.FLOAT
# Operator and attributes of each activation, outside of com.microsoft where there is no other.
ACTIVATION_NODES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "silu": ("QuickGelu", {"domain": MICROSOFT, "alpha": 1.0}),
    "quick_gelu": ("QuickGelu", {"domain": MICROSOFT, "alpha": 1.702}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What every attention node of a call reads beside its rows and its cache; `turns` has cosines and sines by layer,
    None where positions are not turned."""

    last_positions: ir.Value  # int32 [B], S - 1
    total_length: ir.Value  # int32 scalar, S
    position_ids: ir.Value  # int64 [B, T]
    attention_bias: ir.Value  # float32 [1, 1, T, S]
    turns: Mapping[int, tuple[ir.Value, ir.Value] | None]


@dataclass(frozen=True, slots=True)
class Residual:
    """The running sum of the layers: `stream + update`, not yet added, so that the next norm can do it in one node."""

    stream: ir.Value
    update: ir.Value | None = None


class Blocks:
    """Writes the parts of one architecture, in one precision, to one graph."""

    def __init__(self, pen: GraphPen, architecture: Architecture, weights: ModelWeights, recipe: Recipe) -> None:
        self._pen, self._architecture, self._weights, self._recipe = pen, architecture, weights, recipe
        self._linear = Linear(pen, recipe)
        self._caches: dict[int, Sequence[ir.Value]] = {}  # by layer, for those that share them

    def embed(self, token_ids: ir.Value, blend: ir.Value, position_ids: ir.Value) -> Residual:
        """[B, T, W] ids and their weights to the weighted sum of W embeddings [B, T, E], learned positions added."""
        pen, a = self._pen, self._architecture
        rows = self._linear.rows(self._embedding_name, token_ids, self._weights.embedding)
        hidden = self._blended(rows, blend, "embedding_scale", a.embedding_scale)
        if not a.has("positions"):
            return Residual(hidden)
        table = pen.weight("positions", lambda: self._weights.read("positions"))
        return Residual(hidden, pen.op("Gather", table, position_ids))

    def _blended(self, rows: ir.Value, blend: ir.Value, name: str, factor: float) -> ir.Value:
        """Return `factor` times the sum of W rows with their weights: [B, T, W, N] and [B, T, W] to [B, T, N]."""
        pen, axis = self._pen, self._pen.constant("blend_axis", np.array([2], np.int64))
        if factor != 1:
            blend = pen.op("Mul", blend, self._number(name, factor))
        return pen.op("Squeeze", pen.op("MatMul", pen.op("Unsqueeze", blend, axis), rows), axis)

    def layer(self, residual: Residual, layer: int, step: StepInputs) -> Residual:
        """Attention, then the FFN, each with the norms that the architecture has; or both on the same input."""
        a = self._architecture
        normed, residual = self._enter(residual, "attention_norm", layer)
        update = self._leave(self.attention(normed, layer, step), "attention_out_norm", layer)
        if a.parallel:
            if a.has("ffn_norm"):
                normed, _ = self._enter(Residual(residual.stream), "ffn_norm", layer)
            return Residual(residual.stream, self._pen.op("Add", update, self.feed_forward(normed, layer)))
        normed, residual = self._enter(Residual(residual.stream, update), "ffn_norm", layer)
        return Residual(residual.stream, self._leave(self.feed_forward(normed, layer), "ffn_out_norm", layer))

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
        pen, is_rms = self._pen, self._architecture.norm == "rms"
        weights = [pen.weight(key, lambda: gain)]
        if bias is not None:
            weights.append(pen.weight(f"{key}.bias", lambda: bias))
        epsilon = self._architecture.norm_epsilon
        if residual.update is None:
            name = "SimplifiedLayerNormalization" if is_rms else "LayerNormalization"
            return pen.op(name, residual.stream, *weights, epsilon=epsilon, axis=-1), residual.stream
        normed, mean, deviation, total = pen.op_outputs(
            "SkipSimplifiedLayerNormalization" if is_rms else "SkipLayerNormalization",
            *(residual.update, residual.stream, *weights),
            count=4,
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        mean.name = deviation.name = ""  # not wanted, so not computed
        return normed, total

    def add_up(self, residual: Residual) -> ir.Value:
        """Return the sum itself, [B, T, E]."""
        if residual.update is None:
            return residual.stream
        return self._pen.op("Add", residual.stream, residual.update)

    def attention(self, x: ir.Value, layer: int, step: StepInputs) -> ir.Value:
        """[B, T, E] to [B, T, E] update; reads and writes the layer's cache."""
        w, has_parts = self._weights, self._architecture.head_norm != "none" or self._architecture.qkv_clip is not None
        qkv = self._linear(x, f"layers.{layer}.qkv", lambda: w.qkv(layer), w.qkv_bias(layer))
        parts = self._parts(qkv, layer) if has_parts else (qkv, None, None)
        mixed = self._attend(parts, layer, step)
        return self._linear(mixed, f"layers.{layer}.o", lambda: [w.output(layer)], w.scaled_bias("o", layer))

    def _attend(self, parts: Sequence[ir.Value | None], layer: int, step: StepInputs) -> ir.Value:
        """Queries, keys and values, or all in the first of them, to the mixed values [B, T, H * D].

        A layer without a cache reads its owner's, the new rows too: the owner had its turn before, in the same call.
        """
        d, pen, owner = self._architecture.dimensions, self._pen, self._architecture.cache_owner(layer)
        if owner != layer:
            return self._mix(parts, self._caches[owner], layer, step, count=1)[0]
        cache_shape = ("B", d.num_kv_heads, "C", kernel_head_size(d.head_size))
        past = [pen.input(f"past_{kind}_{layer}", FLOAT, cache_shape) for kind in ("key", "value")]
        mixed, *self._caches[layer] = self._mix(parts, past, layer, step, count=3)
        for kind, present in zip(("key", "value"), self._caches[layer], strict=True):
            pen.output(present, f"present_{kind}_{layer}", FLOAT, cache_shape)
        return mixed

    def _mix(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: int, step: StepInputs, *, count: int
    ) -> Sequence[ir.Value]:
        """Return what attention mixes and, when `count` is 3, the keys and values with the new ones in their place."""
        a, d, turns = self._architecture, self._architecture.dimensions, step.turns[layer]
        return self._pen.op_outputs(
            "GroupQueryAttention",
            *(*parts, *past, step.last_positions, step.total_length),
            *(turns or (None, None)),
            step.position_ids if turns else None,
            step.attention_bias,
            count=count,
            domain=MICROSOFT,
            num_heads=d.num_heads,
            kv_num_heads=d.num_kv_heads,
            do_rotary=int(turns is not None),
            scale=a.attention_scales[layer],
            softcap=a.attention_cap or 0.0,
            local_window_size=a.windows[layer] or -1,
        )

    def _parts(self, qkv: ir.Value, layer: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Split the fused projection; norm queries and keys, then clip all three, where the architecture does."""
        a, d, pen = self._architecture, self._architecture.dimensions, self._pen
        size = kernel_head_size(d.head_size)
        widths = np.array([d.num_heads * size, d.num_kv_heads * size, d.num_kv_heads * size], np.int64)
        query, key, value = pen.op_outputs("Split", qkv, pen.constant("qkv_widths", widths), count=3, axis=-1)
        if a.head_norm != "none":
            query, key = self._norm_rows(query, "q_norm", layer), self._norm_rows(key, "k_norm", layer)
        if a.qkv_clip is None:
            return query, key, value
        ends = [self._number(f"qkv_{end}", limit) for end, limit in (("lowest", -a.qkv_clip), ("highest", a.qkv_clip))]
        query, key, value = (pen.op("Clip", part, *ends) for part in (query, key, value))
        return query, key, value

    def _norm_rows(self, x: ir.Value, name: str, layer: int) -> ir.Value:
        """Norm the queries or the keys of a layer, [B, T, heads * D]."""
        make = functools.partial(self._weights.head_gain, name, layer)
        return self._norm_heads(x, self._pen.weight(f"layers.{layer}.{name}", make))

    def _norm_heads(self, x: ir.Value, gain: ir.Value) -> ir.Value:
        """Norm each head of [B, T, heads * D], or all of them together.

        The zeros of a padded head shrink its mean of squares; gain and epsilon make up for it.
        """
        a, pen = self._architecture, self._pen
        real, size = a.dimensions.head_size, kernel_head_size(a.dimensions.head_size)
        epsilon = a.norm_epsilon * real / size
        if a.head_norm == "joint":
            return pen.op("SimplifiedLayerNormalization", x, gain, epsilon=epsilon, axis=-1)
        heads = pen.op("Reshape", x, pen.constant(f"split_heads_{size}", np.array([0, 0, -1, size], np.int64)))
        if a.head_norm == "shared":
            normed = pen.op("SimplifiedLayerNormalization", heads, gain, epsilon=epsilon, axis=-1)
        else:
            ones = pen.constant("head_ones", np.ones(size, np.float32))
            plain = pen.op("SimplifiedLayerNormalization", heads, ones, epsilon=epsilon, axis=-1)
            normed = pen.op("Mul", plain, gain)
        return pen.op("Reshape", normed, pen.constant("join_heads", np.array([0, 0, -1], np.int64)))

    def feed_forward(self, x: ir.Value, layer: int) -> ir.Value:
        """[B, T, E] to [B, T, E] update: down(act(gate(x)) * up(x)), down(act(up(x))), or a mixture of such."""
        a, pen, w = self._architecture, self._pen, self._weights
        if a.is_mixture(layer):
            return self._mixture(x, layer)
        is_gated = a.has("gate") or a.has("gate_up")
        name = f"layers.{layer}.{'gate_up' if is_gated else 'up'}"
        inner = self._linear(x, name, lambda: w.inner(layer), w.inner_bias(layer))
        if is_gated:
            gate, up = pen.op_outputs("Split", inner, count=2, axis=-1, num_outputs=2)
            inner = pen.op("Mul", self._gate(gate, layer), up)
        else:
            inner = self._activate(inner)
        return self._linear(inner, f"layers.{layer}.down", lambda: [w.down(layer)], w.scaled_bias("down", layer))

    def _gate(self, x: ir.Value, layer: int) -> ir.Value:
        """Return what the other half of an FFN is multiplied by."""
        return self._activate(x)

    def _activate(self, x: ir.Value) -> ir.Value:
        name, attributes = ACTIVATION_NODES[self._architecture.activation]
        return self._pen.op(name, x, **attributes)

    def _mixture(self, x: ir.Value, layer: int) -> ir.Value:
        experts, w, name = self._architecture.experts, self._weights, f"layers.{layer}.experts"
        assert experts is not None, "a mixture has experts"
        # Routing is sensitive and its matrix small: it stays in numbers.
        router = self._pen.weight(f"layers.{layer}.router", lambda: w.read("router", layer).T)
        return mixture(
            self._pen,
            x,
            self._pen.op("MatMul", x, router),
            experts,
            name=name,
            rule=self._recipe.for_tensor(name),
            gate_up=lambda expert: w.expert_inner(layer, expert),
            down=lambda expert: w.expert_down(layer, expert),
        )

    def head(self, hidden: ir.Value, rows: ir.Value) -> ir.Value:
        """[B, T, E] before the final norm to logits [R, V] of the rows asked for, numbered over B * T."""
        a, pen = self._architecture, self._pen
        flat = pen.op("Reshape", hidden, pen.constant("flat", np.array([-1, a.dimensions.hidden_size], np.int64)))
        asked = Residual(pen.op("Gather", flat, rows, axis=0))
        normed, _ = self.norm(asked, "final_norm", *self._weights.final_norm())
        logits = self._linear(normed, "head", lambda: [self._weights.head()], shared=a.tied_embedding)
        if a.logit_cap is None:
            return logits
        return pen.op("Mul", pen.op("Tanh", logits), self._number("logit_cap", a.logit_cap))

    @property
    def _embedding_name(self) -> str:
        """Tied, embedding and head are one tensor under one name."""
        return "head" if self._architecture.tied_embedding else "embedding"

    def _number(self, name: str, value: float) -> ir.Value:
        return self._pen.constant(name, np.array(value, np.float32))
