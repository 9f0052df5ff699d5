"""The operators of our graphs in torch, in float32, so that slopes flow through them.

Each takes the inputs of a node, None where one is left out, and its attributes; several outputs are a tuple. A text is
read as a whole, with an empty cache: past keys and values are looked at by none.
Shapes: B batch, T tokens, H heads, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from skipstone.errors import UnsupportedModel
from skipstone.quant import QuantizedMatrix
from skipstone.train import require_torch

__all__ = ["OPERATORS", "Attributes", "quantized"]

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[..., Any]


def quantized(data: Any, scales: Any, points: Any, *, bits: int, block_size: int, columns: int) -> Any:
    """Return the numbers [N, columns] that integers stand for."""
    torch, rows = require_torch(), data.shape[0]
    matrix = QuantizedMatrix(
        data=data.numpy().reshape(rows, -1, block_size * bits // 8),
        scales=scales.numpy().reshape(rows, -1),
        zero_points=None if points is None else points.numpy().reshape(rows, -1),
        bits=bits,
        block_size=block_size,
        shape=(rows, columns),
    )
    return torch.from_numpy(np.ascontiguousarray(matrix.dequantize()))


def _gather(attributes: Attributes, x: Any, places: Any) -> Any:
    axis, torch = attributes.get("axis", 0), require_torch()
    found = torch.index_select(x, axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis:][1:])


def _gather_integers(attributes: Attributes, data: Any, row_ids: Any, scales: Any, points: Any = None) -> Any:
    ids, bits = row_ids.reshape(-1), attributes["bits"]
    taken = (None if part is None else part.reshape(len(data), -1)[ids] for part in (data, scales, points))
    columns = data.shape[1] * 8 // bits
    rows = quantized(*taken, bits=bits, block_size=attributes["block_size"], columns=columns)
    return rows.reshape(*row_ids.shape, columns)


def _slice(attributes: Attributes, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    places = range(x.dim()) if axes is None else axes.tolist()
    step_of = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(places, starts.tolist(), ends.tolist(), step_of, strict=False):
        index: list[Any] = [slice(None)] * x.dim()
        index[axis] = slice(start, min(end, x.shape[axis]), step)
        x = x[tuple(index)]
    return x


def _split(attributes: Attributes, x: Any, sizes: Any = None) -> Any:
    axis = attributes.get("axis", 0)
    parts = x.shape[axis] // attributes["num_outputs"] if sizes is None else sizes.tolist()
    return tuple(require_torch().split(x, parts, dim=axis))


def _reshape(attributes: Attributes, x: Any, shape: Any) -> Any:
    return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(shape.tolist())])


def _pad(attributes: Attributes, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    before, behind = np.split(pads.numpy(), 2)
    places = list(range(x.dim()) if axes is None else [axis % x.dim() for axis in axes.tolist()])
    widths = []
    for axis in reversed(range(x.dim())):
        at = places.index(axis) if axis in places else None
        widths += [0, 0] if at is None else [int(before[at]), int(behind[at])]
    return require_torch().nn.functional.pad(x, widths, value=0.0 if value is None else float(value))


def _axes(axes: Any) -> list[int]:
    return [int(axis) for axis in axes.reshape(-1).tolist()]


def _unsqueeze(attributes: Attributes, x: Any, axes: Any) -> Any:
    for axis in sorted(_axes(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(attributes: Attributes, x: Any, axes: Any = None) -> Any:
    return x.squeeze() if axes is None else x.squeeze(tuple(_axes(axes)))


def _sum(attributes: Attributes, x: Any, axes: Any) -> Any:
    return x.sum(dim=_axes(axes), keepdim=bool(attributes.get("keepdims", 1)))


def _gemm(attributes: Attributes, x: Any, matrix: Any, bias: Any = None) -> Any:
    product = x @ (matrix.T if attributes.get("transB", 0) else matrix)
    return product if bias is None else product + bias


def _rms_norm(attributes: Attributes, x: Any, gain: Any) -> Any:
    return require_torch().nn.functional.rms_norm(x, gain.shape, gain, attributes["epsilon"])


def _layer_norm(attributes: Attributes, x: Any, gain: Any, bias: Any = None) -> Any:
    return require_torch().nn.functional.layer_norm(x, gain.shape, gain, bias, attributes["epsilon"])


def _after_sum(norm: Operator) -> Operator:
    def normed(attributes: Attributes, update: Any, stream: Any, *weights: Any) -> Any:
        total = update + stream
        return norm(attributes, total, *weights), None, None, total

    return normed


def _sigmoid_gate(attributes: Attributes, x: Any) -> Any:
    return x * require_torch().sigmoid(attributes["alpha"] * x)


def _gelu(attributes: Attributes, x: Any) -> Any:
    return require_torch().nn.functional.gelu(x, approximate=attributes.get("approximate", "none"))


def _clip(attributes: Attributes, x: Any, lowest: Any = None, highest: Any = None) -> Any:
    return require_torch().clamp(x, lowest, highest)


def _turn(x: Any, cosines: Any, sines: Any) -> Any:
    """[B, heads, T, D]: turn channel i of the first half of a head with channel i of the second."""
    first, second = x.chunk(2, dim=-1)
    return require_torch().cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _attention(attributes: Attributes, query: Any, key: Any, value: Any, *others: Any) -> Any:
    torch, num_heads, num_kv = require_torch(), attributes["num_heads"], attributes["kv_num_heads"]
    given = [*others, *[None] * 7]
    cosines, sines, position_ids, rest = given[4], given[5], given[6], given[7:]
    if any(part is not None for part in rest[1:]):
        raise UnsupportedModel("attention with sinks or an integer cache has no slope here: experts cannot learn")
    if key is None:
        size = query.shape[-1] // (num_heads + 2 * num_kv)
        query, key, value = query.split([num_heads * size, num_kv * size, num_kv * size], dim=-1)
    batch, count = query.shape[:2]
    parts = [
        part.reshape(batch, count, -1, query.shape[-1] // num_heads).transpose(1, 2) for part in (query, key, value)
    ]
    if cosines is not None:
        tables = [table[position_ids[0]] for table in (cosines, sines)]
        parts[:2] = [_turn(part, *tables) for part in parts[:2]]
    key, value = (part.repeat_interleave(num_heads // num_kv, dim=1) for part in parts[1:])
    scores = parts[0] @ key.transpose(2, 3) * attributes["scale"]
    if cap := attributes.get("softcap", 0.0):
        scores = cap * torch.tanh(scores / cap)
    distance = torch.arange(count)[:, None] - torch.arange(count)
    window = attributes.get("local_window_size", -1)
    hidden = (distance < 0) | (distance >= window) if window > 0 else distance < 0
    mixed = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ value
    return mixed.transpose(1, 2).reshape(batch, count, -1), None, None


_TYPES: Final[Mapping[int, str]] = {1: "float32", 6: "int32", 7: "int64", 10: "float32"}

OPERATORS: Final[Mapping[str, Operator]] = {
    "Abs": lambda _, x: x.abs(),
    "Add": lambda _, x, y: x + y,
    "Cast": lambda attributes, x: x.to(getattr(require_torch(), _TYPES[attributes["to"]])),
    "Clip": _clip,
    "Concat": lambda attributes, *parts: require_torch().cat(parts, dim=attributes["axis"]),
    "Div": lambda _, x, y: x / y,
    "Gather": _gather,
    "GatherBlockQuantized": _gather_integers,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GroupQueryAttention": _attention,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda _, x, y: x @ y,
    "Mul": lambda _, x, y: x * y,
    "Pad": _pad,
    "QuickGelu": _sigmoid_gate,
    "ReduceSum": _sum,
    "Relu": lambda _, x: x.relu(),
    "Reshape": _reshape,
    "Shape": lambda _, x: require_torch().tensor(x.shape),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _after_sum(_layer_norm),
    "SkipSimplifiedLayerNormalization": _after_sum(_rms_norm),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": lambda _, x, y: x - y,
    "Tanh": lambda _, x: x.tanh(),
    "Transpose": lambda attributes, x: x.permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""By the name of an operator; a product with integers, `MatMulNBits`, keeps its matrix and is the graph's own."""
