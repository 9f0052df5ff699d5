"""Which matrices read what a norm gives, and which of our tensors write to the stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.families import Architecture

__all__ = ["norm_readers", "value_rows", "writers"]

_ATTENTION = ("q", "k", "v", "qkv")
_DENSE = ("gate", "up", "gate_up", "expert_router")
_MIXTURE = ("router", "expert_gate", "expert_up")


def norm_readers(architecture: Architecture, layer: int) -> Mapping[str, tuple[str, ...]]:
    """Return the norms in front of attention and FFN of a layer, by our names, and the matrices that read each."""
    attention = _ATTENTION if architecture.has_attention(layer) else ()
    ffn = (_MIXTURE if architecture.is_mixture(layer) else _DENSE) if architecture.has_ffn(layer) else ()
    readers: dict[str, tuple[str, ...]]
    if architecture.parallel and not architecture.has("ffn_norm"):
        readers = {"attention_norm": attention + ffn}
    else:
        readers = {"attention_norm": attention, "ffn_norm": ffn}
    return {
        norm: tuple(filter(architecture.has, names))
        for norm, names in readers.items()
        if names and architecture.has(norm)
    }


def writers(architecture: Architecture, layer: int) -> tuple[str, ...]:
    """Return the matrices of a layer that add to the stream."""
    ffn = ("expert_down" if architecture.is_mixture(layer) else "down",) if architecture.has_ffn(layer) else ()
    carved = architecture.carved_ffn(layer)
    rests = ("expert_rest",) if carved is not None and carved.has_rests else ()
    return ("o", *ffn, *rests) if architecture.has_attention(layer) else (*ffn, *rests)


def value_rows(architecture: Architecture) -> tuple[str, NDArray[np.int64]]:
    """Return the matrix that makes the values, `v` or `qkv`, and its rows [K * D] for them, head by head."""
    d = architecture.dimensions
    rows = (architecture.head_starts()[2][:, None] + np.arange(d.head_size)).ravel()
    return ("qkv" if architecture.has("qkv") else "v"), rows
