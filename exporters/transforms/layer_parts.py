"""A model whose layers are some of those of another, each whole or one block of it.

Depth pruning leaves layers or blocks out; a search for what can be left out cuts each layer into its two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.checkpoints import Coding, TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.transform import ChangedTensors
from skipstone.quant import QuantizedMatrix

__all__ = ["LayerPart", "arranged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPart:
    """A layer of the model before, with those of its blocks that stay."""

    layer: int
    attention: bool = True
    ffn: bool = True


def arranged(
    architecture: Architecture, tensors: TensorSource, parts: Sequence[LayerPart]
) -> tuple[Architecture, TensorSource]:
    """Return the model whose layers are `parts`, in this order. No matrix changes."""
    layers = tuple(part.layer for part in parts)
    widths, experts = _of(architecture.ffn_widths, layers), architecture.experts
    if experts is not None:
        experts = replace(experts, layers=_of(experts.layers, layers))
    carving = architecture.carving
    if carving is not None:
        carving = replace(carving, layers=_of(carving.layers, layers))
    inner = architecture.dimensions.intermediate_size
    if inner == max(architecture.ffn_widths):
        inner = max(widths)
    has_attention = [part.attention and architecture.has_attention(part.layer) for part in parts]
    has_ffn = [part.ffn and architecture.has_ffn(part.layer) for part in parts]
    other = replace(
        architecture,
        dimensions=replace(architecture.dimensions, num_layers=len(parts), intermediate_size=inner),
        windows=_of(architecture.windows, layers),
        rotaries=_of(architecture.rotaries, layers),
        ffn_widths=widths,
        attention_scales=_of(architecture.attention_scales, layers),
        experts=experts,
        carving=carving,
        no_attention=frozenset(layer for layer, has in enumerate(has_attention) if not has),
        no_ffn=frozenset(layer for layer, has in enumerate(has_ffn) if not has),
    )
    return other, _MovedTensors(tensors, *_moves(architecture, layers), frozenset(other.tensor_shapes()))


class _MovedTensors(ChangedTensors):
    """The tensors of a model some of which have the names of others.

    `old_names` are those that layers may have, `wanted` those that are part of the model.
    """

    def __init__(
        self, source: TensorSource, moves: Mapping[str, str], old_names: frozenset[str], wanted: frozenset[str]
    ) -> None:
        super().__init__(source)
        there = source.names()
        self._moves = {new: old for new, old in moves.items() if old in there and new in wanted}
        self._names = (there - old_names) | frozenset(self._moves)

    def _old(self, name: str) -> str:
        return self._moves.get(name, name)

    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        return self._source.shape(self._old(name))

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array. Raises: CheckpointError, as the source does."""
        return self._source.read(self._old(name), shape)

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is stored as integers, and given so by `read_quantized`."""
        return self._source.is_quantized(self._old(name))

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K] for which `is_quantized` holds. Raises: as `read` does."""
        return self._source.read_quantized(self._old(name), shape)

    def coding(self, name: str) -> Coding:
        """How the integers of a tensor for which `is_quantized` holds are carried over."""
        return self._source.coding(self._old(name))

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Some rows of such a tensor as integers, and their numbers, in the source. Raises: as `read` does."""
        return self._source.sample(self._old(name))


def _of(values: tuple[Any, ...], layers: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(values[layer] for layer in layers)


def _moves(architecture: Architecture, layers: tuple[int, ...]) -> tuple[dict[str, str], frozenset[str]]:
    """Return the new name of each tensor that a layer may have with its old one, and all old names of layers."""

    def names_of(layer: int) -> list[str]:
        names = [name for name, theirs in architecture.names.items() if "{layer}" in theirs]
        biases = [f"{name}_bias" for name in architecture.biases]
        plain = [theirs for name in names if name not in biases for theirs in architecture.stored_names(name, layer)]
        return plain + [architecture.names[name].format(layer=layer) for name in biases if name in architecture.names]

    moves: dict[str, str] = {}
    for new, old in enumerate(layers):
        moves |= dict(zip(names_of(new), names_of(old), strict=True))
    everything = (name for layer in range(architecture.dimensions.num_layers) for name in names_of(layer))
    return moves, frozenset(everything)
