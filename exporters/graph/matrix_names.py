"""The names of a model's matrices, as the patterns of a recipe see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from skipstone.exporters.families import Architecture

__all__ = ["matrix_names"]

_OF_STREAMS: Final = ("laurel_left", "laurel_right", "per_layer_gate", "per_layer_out")


def matrix_names(architecture: Architecture) -> list[str]:
    """Return the names of all matrices that a recipe stores."""
    a = architecture
    names = ["head"] if a.tied_embedding else ["embedding", "head"]
    if a.altup is not None:
        names += ["per_layer_embedding", "altup.into_stream", "altup.per_layer_projection"]
        names += [f"altup.from_stream.{index}" for index in range(a.altup.num_streams - 1)]
    for layer in range(a.dimensions.num_layers):
        names += (f"layers.{layer}.{part}" for part in _parts(a, layer))
    return names


def _parts(architecture: Architecture, layer: int) -> Iterator[str]:
    yield from ("qkv", "o")
    if architecture.is_mixture(layer):
        yield "experts"
    else:
        yield "gate_up" if architecture.has("gate") or architecture.has("gate_up") else "up"
        yield "down"
    if architecture.altup is not None:
        yield from (f"altup.{name}" for name in _OF_STREAMS)
