"""The operators of graphs whose shapes are fixed: standard ones that phones have, over a cache of one size.

Shapes: T rows of a call, C rows of the cache, S = C + T, H heads, K kv heads, G = H / K, D padded head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from skipstone.exporters.graph.expert_rows import integers
from skipstone.exporters.graph.kernels import Kernels, Shape
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.plain_kernels import PlainKernels
from skipstone.exporters.graph.step_inputs import AttentionLayer, StepInputs

__all__ = ["BucketKernels", "FixedKernels", "HalfFixedKernels"]

# By this float16 numbers are multiplied before they are squared: with 1/64 the epsilon of norms would become 0.
SMALLER: Final = 1 / 8


class BucketKernels(PlainKernels):
    """Writes graphs for T rows of one text over a cache of C rows: all sizes are known, and no row is told apart.

    Who sees whom is an input, `attention_bias_w` [1, 1, T, S] for layers with a window of w, `attention_bias` for those
    without: first the rows of the cache, then those of the call. Cosines and sines are those of the rows, [T, D / 2].
    The new keys and values are outputs [1, K, T, D], which the caller puts into the cache.
    """

    def __init__(self, pen: GraphPen, num_rows: int, context: int) -> None:
        super().__init__(pen)
        self._num_rows, self._context = num_rows, context
        self._biases: dict[int | None, ir.Value] = {}
        self._whole: dict[ir.Value, ir.Value] = {}  # by what is given back of a cache: all its rows [K, S, D]

    def cache_shapes(self, num_heads: int, size: int) -> tuple[Shape, Shape]:
        return (1, num_heads, self._context, size), (1, num_heads, self._num_rows, size)

    def model(self) -> ir.Model:
        """Return the graph; inputs that nothing reads are left out."""
        model = super().model()
        for value in [value for value in model.graph.inputs if not value.uses()]:
            model.graph.inputs.remove(value)
        return model

    def activate(self, name: str, x: ir.Value) -> ir.Value:
        if name != "gelu_tanh":
            return super().activate(name, x)
        pen = self.pen
        cube = pen.op("Mul", pen.op("Mul", pen.op("Mul", x, x), x), pen.number("gelu_cube", 0.044715))
        inner = pen.op("Mul", pen.op("Add", x, cube), pen.number("gelu_inner", math.sqrt(2 / math.pi)))
        gate = pen.op("Add", pen.op("Tanh", inner), pen.number("one", 1.0))
        return pen.op("Mul", pen.op("Mul", x, pen.number("half", 0.5)), gate)

    def norm(self, kind: str, x: ir.Value, *weights: ir.Value, epsilon: float) -> ir.Value:
        """The parts of a norm: many providers have no operator for the whole.

        In float16 numbers are made smaller first: real models have some whose squares it cannot hold.
        """
        pen, (gain, *biases) = self.pen, weights
        if pen.numbers == ir.DataType.FLOAT16:
            x, epsilon = pen.op("Mul", x, pen.number("smaller", SMALLER)), epsilon * SMALLER**2
        if kind != "rms":
            x = pen.op("Sub", x, self._mean(x))
        square = self._mean(pen.op("Mul", x, x))
        root = pen.op("Sqrt", pen.op("Add", square, pen.number(f"epsilon_{epsilon}", epsilon)))
        normed = pen.op("Mul", pen.op("Div", x, root), gain)
        return pen.op("Add", normed, biases[0]) if biases else normed

    def _mean(self, x: ir.Value) -> ir.Value:
        return self.pen.op("ReduceMean", x, integers(self.pen, -1), keepdims=1)

    # Attention

    def attend(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: AttentionLayer, step: StepInputs
    ) -> Sequence[ir.Value]:
        query, key, value = self._split(parts, layer)
        queries = self._turned(self._by_head(query, layer.num_heads, layer), layer)
        if not layer.writes:  # the owner of the cache had its turn
            return (self._mix(queries, [self._whole[rows] for rows in past], layer),)
        rows = [
            self._turned(self._by_head(key, layer.num_kv_heads, layer), layer),
            self._by_head(value, layer.num_kv_heads, layer),
        ]
        whole = [self._behind(cache, new, layer) for cache, new in zip(past, rows, strict=True)]
        given = [self._reshape(new, 1, layer.num_kv_heads, self._num_rows, layer.head_size) for new in rows]
        self._whole.update(zip(given, whole, strict=True))
        return (self._mix(queries, whole, layer), *given)

    def _split(self, parts: Sequence[ir.Value | None], layer: AttentionLayer) -> Sequence[ir.Value]:
        query, key, value = parts
        assert query is not None, "there are queries always"
        if key is not None and value is not None:
            return query, key, value
        widths = [heads * layer.head_size for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)]
        if not layer.writes:
            return query, query, query
        return self.pen.op_outputs("Split", query, integers(self.pen, *widths), count=3, axis=-1)

    def _by_head(self, x: ir.Value, num_heads: int, layer: AttentionLayer) -> ir.Value:
        """[1, T, heads * D] to [heads, T, D]."""
        apart = self._reshape(x, self._num_rows, num_heads, layer.head_size)
        return self.pen.op("Transpose", apart, perm=[1, 0, 2])

    def _turned(self, x: ir.Value, layer: AttentionLayer) -> ir.Value:
        """Turn [heads, T, D] by the angles of the rows."""
        if layer.turns is None:
            return x
        pen, (cosines, sines) = self.pen, layer.turns
        first, second = pen.op_outputs("Split", x, count=2, axis=-1, num_outputs=2)
        turned = (
            pen.op("Sub", pen.op("Mul", first, cosines), pen.op("Mul", second, sines)),
            pen.op("Add", pen.op("Mul", second, cosines), pen.op("Mul", first, sines)),
        )
        return pen.op("Concat", *turned, axis=-1)

    def _behind(self, cache: ir.Value, rows: ir.Value, layer: AttentionLayer) -> ir.Value:
        """Return the rows of the cache [1, K, C, D], and behind them the new ones [K, T, D]: [K, S, D]."""
        old = self._reshape(cache, layer.num_kv_heads, self._context, layer.head_size)
        return self.pen.op("Concat", old, rows, axis=1)

    def _mix(self, queries: ir.Value, whole: Sequence[ir.Value], layer: AttentionLayer) -> ir.Value:
        """[H, T, D] and all keys and values [K, S, D] to what is mixed [1, T, H * D]."""
        pen, (keys, values), heads = self.pen, whole, layer.num_kv_heads
        rows, shared, size = self._num_rows, layer.num_heads // layer.num_kv_heads, self._context + self._num_rows
        scaled = pen.op("Mul", queries, pen.number(f"scale_{layer.scale}", layer.scale))
        scaled = self._reshape(scaled, heads, shared * rows, layer.head_size)
        scores = self._capped(pen.op("MatMul", scaled, pen.op("Transpose", keys, perm=[0, 2, 1])), layer.softcap)
        seen = pen.op("Add", self._reshape(scores, heads, shared, rows, size), self._bias(layer.window))
        chances = self._reshape(pen.op("Softmax", seen, axis=-1), heads, shared * rows, size)
        mixed = self._reshape(pen.op("MatMul", chances, values), layer.num_heads, rows, layer.head_size)
        return self._reshape(pen.op("Transpose", mixed, perm=[1, 0, 2]), 1, rows, layer.num_heads * layer.head_size)

    def _capped(self, scores: ir.Value, cap: float) -> ir.Value:
        if not cap:
            return scores
        pen, number = self.pen, self.pen.number(f"softcap_{cap}", cap)
        return pen.op("Mul", pen.op("Tanh", pen.op("Div", scores, number)), number)

    def _bias(self, window: int | None) -> ir.Value:
        """Return what is added to scores [1, 1, T, S] by layers that see so many tokens."""
        if window not in self._biases:
            name = "attention_bias" if window is None else f"attention_bias_{window}"
            shape = (1, 1, self._num_rows, self._context + self._num_rows)
            self._biases[window] = self.pen.input(name, self.pen.numbers, shape)
        return self._biases[window]

    def _reshape(self, x: ir.Value, *sizes: int) -> ir.Value:
        return self.pen.op("Reshape", x, integers(self.pen, *sizes))


class FixedKernels(PlainKernels):
    """The plain graphs of targets whose providers want fixed shapes: these stand beside them, over the same weights.

    All weights are numbers: the providers have no operator for blocks of integers.
    """

    has_rings = False
    least_bits = 32
    has_buckets = True

    @classmethod
    def for_bucket(cls, pen: GraphPen, num_rows: int, context: int) -> Kernels:
        return BucketKernels(pen, num_rows, context)


class HalfFixedKernels(FixedKernels):
    """As `FixedKernels`, with weights, cache and hidden states in float16."""

    numbers = "float16"
