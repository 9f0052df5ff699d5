"""Multiply-adds of a node, from the shapes of what it reads and writes.

Products of matrices, attention, experts and convolutions are counted. All else counts as nothing: it reads each number
once or twice, and takes a percent of a decoder's time or two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, TypeAlias

from onnx import NodeProto

from skipstone.placement.shapes import Shape, ValueType, attributes_of, operator_of

__all__ = ["work_of"]

Count: TypeAlias = Callable[[Sequence[tuple[int, ...]], Mapping[str, Any], int], int]
"""Takes the shapes of inputs and then of the first output, the attributes, and the tokens of the cache."""


def work_of(node: NodeProto, types: Mapping[str, ValueType], *, context: int) -> int | None:
    """Return the multiply-adds of a node on a cache of `context` tokens; None where its sizes are not known."""
    count = COUNTS.get(operator_of(node))
    if count is None:
        return 0
    shapes = [_fixed(types.get(name, (0, None))[1]) if name else () for name in (*node.input, node.output[0])]
    try:
        return count(shapes, attributes_of(node), context)  # type: ignore[arg-type]
    except (TypeError, IndexError, KeyError, ValueError):  # a shape that is not known is None
        return None


def _fixed(shape: Shape | None) -> tuple[int, ...] | None:
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(int(size or 0) for size in shape)


def _matmul(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    """What is known of two of the three shapes is enough: both inputs, or an input and the output."""
    first, second, out = shapes[0], shapes[1], shapes[-1]
    if out is None:
        return prod(first) * second[-1]
    return prod(out) * (second[-2] if first is None else first[-1])


def _gemm(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    return prod(shapes[-1]) * shapes[0][0 if own.get("transA") else 1]


def _matmul_n_bits(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    return int(prod(shapes[0]) * own["N"])


def _conv(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    return prod(shapes[-1]) * prod(shapes[1][1:])


def _group_query_attention(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    """Scores and sums: each row of each head with every token of the cache that its window lets it see."""
    batch, rows, width = shapes[-1]
    window = own.get("local_window_size", -1)
    return int(2 * batch * rows * width * (min(window, context) if window > 0 else context))


def _attention(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    """Q as [B, H, T, D] or [B, T, H * D], keys as [B, K, S, D] or [B, S, K * D]; a cache is before or in them."""
    key, past = shapes[1], shapes[4] if len(shapes) > 5 else ()
    inside = key is not None and past is not None
    return 2 * prod(shapes[0]) * (key[-2] + (past[-2] if past else 0) if inside else context)


def _experts(shapes: Sequence[tuple[int, ...]], own: Mapping[str, Any], context: int) -> int:
    """Each row goes through `k` experts: [E, outputs, ...] up, and back from half of that where a gate is in it."""
    *rows, hidden = shapes[0]
    up = next(shape for shape in shapes[2:] if len(shape) == 3)[1]
    inner = up // 2 if own.get("swiglu_fusion") or own.get("activation_type") in (b"swiglu", "swiglu") else up
    return int(prod(rows) * own.get("k", 1) * hidden * (up + inner))


COUNTS: Final[Mapping[str, Count]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Attention": _attention,
    "com.microsoft:MatMulNBits": _matmul_n_bits,
    "com.microsoft:FusedMatMul": _matmul,
    "com.microsoft:DynamicQuantizeMatMul": _matmul,
    "com.microsoft:MatMulIntegerToFloat": _matmul,
    "com.microsoft:GroupQueryAttention": _group_query_attention,
    "com.microsoft:MultiHeadAttention": _attention,
    "com.microsoft:MoE": _experts,
    "com.microsoft:QMoE": _experts,
}
