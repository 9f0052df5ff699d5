"""The parts of a decoder as ONNX nodes: embedding, attention, FFN, head.

Shapes: B batch, T tokens, W tokens blended in one position, E hidden size, H heads, K kv heads, D head size,
C cache capacity, S total length (cached and new tokens), R rows that logits are wanted for, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.architecture import Architecture
from skipstone.exporters.graph import MICROSOFT, GraphPen
from skipstone.exporters.weights import CheckpointWeights, kernel_head_size, pad_heads
from skipstone.quant import QuantizedMatrix, Recipe, quantize

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What every attention node of a call reads beside its rows and its cache."""

    last_positions: ir.Value  # int32 [B], S - 1
    total_length: ir.Value  # int32 scalar, S
    position_ids: ir.Value  # int64 [B, T]
    attention_bias: ir.Value  # float32 [1, 1, T, S]
    cosines: ir.Value
    sines: ir.Value


@dataclass(frozen=True, slots=True)
class Residual:
    """The running sum of the layers: `stream + update`, not yet added, so that the next norm can do it in one node."""

    stream: ir.Value
    update: ir.Value | None = None


class Blocks:
    """Writes the parts of one architecture, in one precision, to one graph."""

    def __init__(self, pen: GraphPen, architecture: Architecture, weights: CheckpointWeights, recipe: Recipe) -> None:
        self._pen, self._architecture, self._weights, self._recipe = pen, architecture, weights, recipe

    def embed(self, token_ids: ir.Value, blend: ir.Value) -> Residual:
        """[B, T, W] ids and their weights to the weighted sum of W embeddings, [B, T, E]."""
        pen = self._pen
        axis = pen.constant("blend_axis", np.array([2], np.int64))
        mixed = pen.op("MatMul", pen.op("Unsqueeze", blend, axis), self._embedding_rows(token_ids))
        return Residual(pen.op("Squeeze", mixed, axis))

    def _embedding_rows(self, token_ids: ir.Value) -> ir.Value:
        """[B, T, W] ids to their embeddings, [B, T, W, E]."""
        pen, name, width = self._pen, self._embedding_name, self._architecture.dimensions.hidden_size
        rule = self._recipe.for_tensor(name)
        if rule.bits == 32:
            return pen.op("Gather", pen.weight(name, self._read_embedding), token_ids)
        _, scales, zero_points = self._quantized(name, self._read_embedding)
        # The head's matrix product wants blocks apart, the lookup wants rows: same bytes, two shapes.
        flat = pen.weight_rows(f"{name}.data")
        rows = pen.op(
            "GatherBlockQuantized",
            *(flat, token_ids, scales, zero_points),
            domain=MICROSOFT,
            bits=rule.bits,
            block_size=rule.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if width % rule.block_size == 0:
            return rows
        borders = {"start": 0, "end": width, "axis": -1}
        return pen.op("Slice", rows, *(pen.constant(f"row_{key}", np.array([at])) for key, at in borders.items()))

    def norm(self, residual: Residual, name: str, layer: int = 0) -> tuple[ir.Value, Residual]:
        """Return the normed sum and the residual with the update added."""
        key = name if name == "final_norm" else f"layers.{layer}.{name}"
        gain = self._pen.weight(key, lambda: self._weights.read(name, layer))
        epsilon = self._architecture.norm_epsilon
        if residual.update is None:
            normed = self._pen.op("SimplifiedLayerNormalization", residual.stream, gain, epsilon=epsilon, axis=-1)
            return normed, residual
        normed, mean, deviation, total = self._pen.op_outputs(
            "SkipSimplifiedLayerNormalization",
            *(residual.update, residual.stream, gain),
            count=4,
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        mean.name = deviation.name = ""  # not wanted, so not computed
        return normed, Residual(total)

    def add_up(self, residual: Residual) -> ir.Value:
        """Return the sum itself, [B, T, E]."""
        if residual.update is None:
            return residual.stream
        return self._pen.op("Add", residual.stream, residual.update)

    def attention(self, x: ir.Value, layer: int, step: StepInputs) -> ir.Value:
        """[B, T, E] normed to [B, T, E] update; reads and writes the layer's cache."""
        d, pen = self._architecture.dimensions, self._pen
        bias = (lambda: self._weights.qkv_bias(layer)) if self._architecture.qkv_bias else None
        qkv = self._linear(x, f"layers.{layer}.qkv", d.hidden_size, lambda: self._weights.qkv(layer), bias)
        query, key, value = self._normed_heads(qkv, layer) if self._architecture.qk_norm else (qkv, None, None)
        cache_shape = ("B", d.num_kv_heads, "C", kernel_head_size(d.head_size))
        past = [pen.input(f"past_{kind}_{layer}", FLOAT, cache_shape) for kind in ("key", "value")]
        mixed, present_key, present_value = pen.op_outputs(
            "GroupQueryAttention",
            *(query, key, value, *past),
            *(step.last_positions, step.total_length, step.cosines, step.sines, step.position_ids, step.attention_bias),
            count=3,
            domain=MICROSOFT,
            num_heads=d.num_heads,
            kv_num_heads=d.num_kv_heads,
            do_rotary=1,
            scale=d.head_size**-0.5,
            local_window_size=self._architecture.windows[layer] or -1,
        )
        pen.output(present_key, f"present_key_{layer}", FLOAT, cache_shape)
        pen.output(present_value, f"present_value_{layer}", FLOAT, cache_shape)
        bias = (lambda: self._weights.read("o_bias", layer)) if self._architecture.output_bias else None
        width = d.num_heads * kernel_head_size(d.head_size)
        return self._linear(mixed, f"layers.{layer}.o", width, lambda: self._weights.output(layer), bias)

    def _normed_heads(self, qkv: ir.Value, layer: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Split the fused projection and norm each head of queries and keys."""
        d, pen = self._architecture.dimensions, self._pen
        size = kernel_head_size(d.head_size)
        widths = np.array([d.num_heads * size, d.num_kv_heads * size, d.num_kv_heads * size], np.int64)
        query, key, value = pen.op_outputs("Split", qkv, pen.constant("qkv_widths", widths), count=3, axis=-1)
        return self._norm_heads(query, "q_norm", layer), self._norm_heads(key, "k_norm", layer), value

    def _norm_heads(self, x: ir.Value, name: str, layer: int) -> ir.Value:
        d, pen = self._architecture.dimensions, self._pen
        size = kernel_head_size(d.head_size)
        heads = pen.op("Reshape", x, pen.constant(f"split_heads_{size}", np.array([0, 0, -1, size], np.int64)))
        # The zeros of a padded head shrink its mean of squares; gain and epsilon make up for it.
        gain = pen.weight(f"layers.{layer}.{name}", lambda: self._head_gain(name, layer))
        epsilon = self._architecture.norm_epsilon * d.head_size / size
        normed = pen.op("SimplifiedLayerNormalization", heads, gain, epsilon=epsilon, axis=-1)
        return pen.op("Reshape", normed, pen.constant("join_heads", np.array([0, 0, -1], np.int64)))

    def _head_gain(self, name: str, layer: int) -> NDArray[np.float32]:
        """Return the gain [padded D] under which a norm over padded heads equals the norm over the real ones."""
        gain = self._weights.read(name, layer)
        padded = pad_heads(gain, len(gain))
        return padded * np.float32((len(gain) / len(padded)) ** 0.5)

    def feed_forward(self, x: ir.Value, layer: int) -> ir.Value:
        """[B, T, E] normed to [B, T, E] update: down(silu(gate(x)) * up(x))."""
        d, pen, has_bias = self._architecture.dimensions, self._pen, self._architecture.ffn_bias
        bias = (lambda: self._weights.gate_up_bias(layer)) if has_bias else None
        both = self._linear(x, f"layers.{layer}.gate_up", d.hidden_size, lambda: self._weights.gate_up(layer), bias)
        gate, up = pen.op_outputs("Split", both, count=2, axis=-1, num_outputs=2)
        active = pen.op("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
        bias = (lambda: self._weights.read("down_bias", layer)) if has_bias else None
        inner, name = pen.op("Mul", active, up), f"layers.{layer}.down"
        return self._linear(inner, name, d.intermediate_size, lambda: self._weights.read("down", layer), bias)

    def head(self, hidden: ir.Value, rows: ir.Value) -> ir.Value:
        """[B, T, E] before the final norm to logits [R, V] of the rows asked for, numbered over B * T."""
        pen, width = self._pen, self._architecture.dimensions.hidden_size
        flat = pen.op("Reshape", hidden, pen.constant("flat", np.array([-1, width], np.int64)))
        normed, _ = self.norm(Residual(pen.op("Gather", flat, rows, axis=0)), "final_norm")
        return self._linear(normed, "head", width, self._read_head)

    @property
    def _embedding_name(self) -> str:
        """Tied, embedding and head are one tensor under one name."""
        return "head" if self._architecture.tied_embedding else "embedding"

    def _read_embedding(self) -> NDArray[np.float32]:
        return self._weights.read("embedding")

    def _read_head(self) -> NDArray[np.float32]:
        return self._weights.read("embedding" if self._architecture.tied_embedding else "head")

    def _linear(
        self,
        x: ir.Value,
        name: str,
        columns: int,
        make: Callable[[], NDArray[np.float32]],
        make_bias: Callable[[], NDArray[np.float32]] | None = None,
    ) -> ir.Value:
        """Multiply by the transposed matrix [N, columns] under the recipe's rule for `name`, and add the bias [N]."""
        pen, rule = self._pen, self._recipe.for_tensor(name)
        bias = pen.weight(f"{name}.bias", make_bias) if make_bias else None
        if rule.bits == 32:
            return self._float_linear(x, name, make, bias)
        data, scales, zero_points = self._quantized(name, make)
        return pen.op(
            "MatMulNBits",
            *(x, data, scales, zero_points, None, bias),
            domain=MICROSOFT,
            K=columns,
            N=_num_rows(data),
            bits=rule.bits,
            block_size=rule.block_size,
            accuracy_level=4,
        )

    def _float_linear(
        self, x: ir.Value, name: str, make: Callable[[], NDArray[np.float32]], bias: ir.Value | None
    ) -> ir.Value:
        if name == self._embedding_name:  # Gather reads it too, so it stays [V, E]; a head's rows are two-dimensional
            return self._pen.op("Gemm", x, self._pen.weight(name, make), transB=1)
        product = self._pen.op("MatMul", x, self._pen.weight(f"{name}.transposed", lambda: make().T))
        return self._pen.op("Add", product, bias) if bias is not None else product

    def _quantized(
        self, name: str, make: Callable[[], NDArray[np.float32]]
    ) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        """Return packed integers [N, blocks, bytes], scales [N, blocks] and zero points of the matrix `name`."""
        rule = self._recipe.for_tensor(name)

        @functools.cache
        def matrix() -> QuantizedMatrix:
            return quantize(
                make(), bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric, method=rule.method
            )

        def zero_points() -> NDArray[np.uint8]:
            points = matrix().zero_points
            assert points is not None, "an asymmetric matrix has zero points"
            return points

        pen = self._pen
        data = pen.weight(f"{name}.data", lambda: matrix().data)
        scales = pen.weight(f"{name}.scales", lambda: matrix().scales)
        return data, scales, None if rule.symmetric else pen.weight(f"{name}.zero_points", zero_points)


def _num_rows(matrix: ir.Value) -> int:
    assert matrix.const_value is not None, "a weight has its tensor"
    return matrix.const_value.shape.numpy()[0]
