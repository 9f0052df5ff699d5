"""Attention of standard operators over a cache that is written in place.

Shapes: B batch, T tokens, H heads, K kv heads, D padded head size, C cache capacity, S total length (cached and new
tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from skipstone.exporters.graph.expert_rows import integers
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.step_inputs import AttentionLayer, StepInputs

__all__ = ["PlainAttention"]

HIDDEN = -1e9  # of a score that softmax turns into exactly 0


class PlainAttention:
    """Writes the attention of all layers to one graph; what they share, places and masks, is written once.

    The new rows go by ScatterND into the past, which onnxruntime writes in place where a cache is bound as both input
    and output. Then the first S rows are attended to.
    """

    def __init__(self, pen: GraphPen) -> None:
        self._pen = pen
        self._shared: dict[tuple[str, ir.Value], ir.Value] = {}

    def __call__(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: AttentionLayer, step: StepInputs
    ) -> Sequence[ir.Value]:
        """Return what is mixed and, when the layer `writes`, the caches; as `Kernels.attend`."""
        pen, (query, key, value) = self._pen, self._split(parts, layer)
        query = self._turned(query, layer.num_heads, layer, step)
        if layer.writes:
            key = self._turned(key, layer.num_kv_heads, layer, step)
            past = [self._written(cache, rows, layer, step) for cache, rows in zip(past, (key, value), strict=True)]
        mixed = pen.op(
            "Attention",
            self._by_head(query, layer.num_heads),
            *(self._until_now(cache, step) for cache in past),
            self._mask(layer.window, step),
            scale=layer.scale,
            softcap=layer.softcap,
        )
        joined = pen.op("Reshape", pen.op("Transpose", mixed, perm=[0, 2, 1, 3]), self._integers(0, 0, -1))
        return (joined, *past) if layer.writes else (joined,)

    def _split(self, parts: Sequence[ir.Value | None], layer: AttentionLayer) -> Sequence[ir.Value]:
        """Return queries [B, T, H * D], keys and values [B, T, K * D]."""
        query, key, value = parts
        assert query is not None, "there are queries always"
        if key is not None and value is not None:
            return query, key, value
        widths = [heads * layer.head_size for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)]
        return self._pen.op_outputs("Split", query, self._integers(*widths), count=3, axis=-1)

    def _turned(self, x: ir.Value, num_heads: int, layer: AttentionLayer, step: StepInputs) -> ir.Value:
        if layer.turns is None:
            return x
        return self._pen.op("RotaryEmbedding", x, *layer.turns, step.position_ids, num_heads=num_heads)

    def _by_head(self, x: ir.Value, num_heads: int) -> ir.Value:
        """[B, T, heads * D] to [B, heads, T, D]."""
        apart = self._pen.op("Reshape", x, self._integers(0, 0, num_heads, -1))
        return self._pen.op("Transpose", apart, perm=[0, 2, 1, 3])

    def _written(self, cache: ir.Value, rows: ir.Value, layer: AttentionLayer, step: StepInputs) -> ir.Value:
        """Return the cache [B, K, C, D] with rows [B, T, K * D] in their places."""
        heads = layer.num_kv_heads
        return self._pen.op("ScatterND", cache, self._indices(heads, step), self._by_head(rows, heads))

    def _until_now(self, cache: ir.Value, step: StepInputs) -> ir.Value:
        """[B, K, C, D] to [B, K, S, D], with zeros behind the last row of a shorter text: memory there may hold NaN."""
        pen = self._pen
        ends = self._once("total", step, lambda: pen.op("Reshape", self._long(step.total_length), self._integers(1)))
        rows = pen.op("Slice", cache, self._integers(0), ends, self._integers(2))
        return pen.op(
            "Where", self._once("written", step, lambda: self._is_written(step)), rows, pen.number("nothing", 0.0)
        )

    # What layers share

    def _indices(self, num_heads: int, step: StepInputs) -> ir.Value:
        """Return where new rows go, [B, K, T, 3]: the text, the head and the place of each."""
        pen = self._pen

        def make() -> ir.Value:
            places = self._places(step)
            texts = pen.op("Reshape", self._numbers_to(self._size(step.position_ids, 0)), self._integers(-1, 1, 1, 1))
            heads = pen.constant(f"heads_{num_heads}", np.arange(num_heads).reshape(1, -1, 1, 1))
            shape = pen.op("Shape", pen.op("Add", pen.op("Add", texts, heads), places))
            return pen.op("Concat", *(pen.op("Expand", part, shape) for part in (texts, heads, places)), axis=-1)

        return self._once(f"indices_{num_heads}", step, make)

    def _is_written(self, step: StepInputs) -> ir.Value:
        """Return which of the first S rows of a cache hold tokens, [B, 1, S, 1]."""
        pen = self._pen
        rows = pen.op("Reshape", self._numbers_to(step.total_length), self._integers(1, 1, -1, 1))
        return pen.op("LessOrEqual", rows, self._last(step))

    def _mask(self, window: int | None, step: StepInputs) -> ir.Value:
        """Return what is added to scores, [B, 1, T, S]: a row sees none after it, and of the others its window."""
        pen = self._pen

        def make() -> ir.Value:
            columns, places = self._numbers_to(step.total_length), self._places(step)
            visible = pen.op("LessOrEqual", columns, places)
            if window is not None:
                border = pen.op("Sub", places, pen.constant(f"window_{window}", np.array(window)))
                visible = pen.op("And", visible, pen.op("Greater", columns, border))
            bias = step.attention_bias or pen.number("no_bias", 0.0)
            return pen.op("Where", visible, bias, pen.number("hidden_score", HIDDEN))

        return self._once(f"mask_{window}", step, make)

    def _places(self, step: StepInputs) -> ir.Value:
        """Return the numbers of the rows in their text, [B, 1, T, 1]; positions differ, as those of a tree."""
        pen = self._pen

        def make() -> ir.Value:
            num_tokens = self._size(step.position_ids, 1)
            later = pen.op("Sub", self._numbers_to(num_tokens), pen.op("Sub", num_tokens, self._integers(1)))
            return pen.op("Add", self._last(step), pen.op("Reshape", later, self._integers(1, 1, -1, 1)))

        return self._once("places", step, make)

    def _last(self, step: StepInputs) -> ir.Value:
        """Return the number of the last row of each text, [B, 1, 1, 1]."""
        return self._pen.op("Reshape", self._long(step.last_positions), self._integers(-1, 1, 1, 1))

    def _once(self, name: str, step: StepInputs, make: Callable[[], ir.Value]) -> ir.Value:
        """Return a value that `make` writes the first time it is asked for, for layers with these lengths."""
        key = name, step.total_length
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    # Shapes and numbers

    def _numbers_to(self, count: ir.Value) -> ir.Value:
        """Return 0 to count - 1."""
        zero, one = (self._pen.constant(f"number_{number}", np.array(number)) for number in (0, 1))
        return self._pen.op("Range", zero, self._pen.op("Squeeze", self._long(count)), one)

    def _size(self, x: ir.Value, axis: int) -> ir.Value:
        """Return one size of a value, int64 [1]."""
        return self._pen.op("Shape", x, start=axis, end=axis + 1)

    def _long(self, x: ir.Value) -> ir.Value:
        return self._pen.op("Cast", x, to=int(ir.DataType.INT64))

    def _integers(self, *values: int) -> ir.Value:
        return integers(self._pen, *values)
