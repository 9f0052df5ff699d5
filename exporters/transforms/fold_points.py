"""Where scales of channels can be moved from a matrix into what makes its input: the model stays the same function.

Shapes: E hidden size, H heads, K kv heads, D head size, I inner width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.readers import norm_readers, value_rows

__all__ = ["FoldPoint", "fold_points"]

Columns: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldPoint:
    """Channels between one producer and the matrices that read it, all by our names.

    Dividing the `rows` of the producer, and multiplying as much the columns of the readers, changes nothing. Column i
    of a reader has the scale `columns[i]`: heads that share a key-value head share its scales.
    """

    layer: int
    producer: str
    rows: Columns  # of the producer, one per scale
    readers: tuple[str, ...]
    columns: Columns  # [K of the readers], the number of the scale

    @property
    def num_scales(self) -> int:
        return len(self.rows)


def fold_points(architecture: Architecture) -> Mapping[str, FoldPoint]:
    """Return all such places of a model, by the recipe's name of what reads: `layers.3.qkv`, `.o`, `.gate_up`, `.down`.

    `.up` reads where an FFN has no gate, `.experts` in a mixture; `head` where it is a matrix of its own. Not there are
    what a norm's sibling reads too, values that are clipped, and what leads out of an FFN without a gate.
    """
    a = architecture
    if a.altup is not None:  # what a norm gives is read by more than the layer's matrices
        return {}
    points: dict[str, FoldPoint] = {}
    for layer in range(a.dimensions.num_layers):
        for norm, readers in norm_readers(a, layer).items():
            points[f"layers.{layer}.{_place(a, norm, layer)}"] = _behind_norm(a, norm, readers, layer)
        if a.qkv_clip is None and a.has_attention(layer):
            points[f"layers.{layer}.o"] = _behind_values(a, layer)
        if a.has_ffn(layer) and not a.is_mixture(layer) and (a.has("gate_up") or a.has("gate")):
            points[f"layers.{layer}.down"] = _behind_up(a, layer)
    if not a.tied_embedding:
        points["head"] = _behind_norm(a, "final_norm", ("head",), 0)
    return points


def _place(architecture: Architecture, norm: str, layer: int) -> str:
    if norm == "attention_norm":
        return "qkv"
    if architecture.is_mixture(layer):
        return "experts"
    return "gate_up" if architecture.has("gate") or architecture.has("gate_up") else "up"


def _behind_norm(architecture: Architecture, norm: str, readers: tuple[str, ...], layer: int) -> FoldPoint:
    channels = np.arange(architecture.dimensions.hidden_size)
    return FoldPoint(layer=layer, producer=norm, rows=channels, readers=readers, columns=channels)


def _behind_values(architecture: Architecture, layer: int) -> FoldPoint:
    d = architecture.dimensions
    producer, rows = value_rows(architecture)
    heads = np.arange(len(rows)).reshape(d.num_kv_heads, 1, d.head_size)
    shape = d.num_kv_heads, d.num_heads // d.num_kv_heads, d.head_size
    return FoldPoint(
        layer=layer, producer=producer, rows=rows, readers=("o",), columns=np.broadcast_to(heads, shape).ravel()
    )


def _behind_up(architecture: Architecture, layer: int) -> FoldPoint:
    channels = np.arange(architecture.ffn_widths[layer])
    joined = architecture.has("gate_up")
    return FoldPoint(
        layer=layer,
        producer="gate_up" if joined else "up",
        rows=channels + len(channels) if joined else channels,
        readers=("down",),
        columns=channels,
    )
