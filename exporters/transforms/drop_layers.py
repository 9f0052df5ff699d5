"""A smaller model out of fewer layers: some are left out, the others move up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import Coding, TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.transform import ChangedTensors, Transform
from skipstone.quant import QuantizedMatrix

__all__ = ["DropLayers"]

COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
"""What config.json may call the number of layers."""


@dataclass(frozen=True, slots=True)
class DropLayers(Transform):
    """Leaves out whole layers, counted from 0. Their integers stay integers: no matrix changes.

    Source: depth pruning, as in EvoPress (Sieberling et al., 2024).
    """

    keeps_matrices: ClassVar[bool] = True

    layers: tuple[int, ...]

    def __str__(self) -> str:
        return f"prune {','.join(map(str, self.layers))}"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise ConfigError for layers that are not there, or all; UnsupportedModel where layers share something."""
        num_layers = architecture.dimensions.num_layers
        wrong = [layer for layer in self.layers if not 0 <= layer < num_layers]
        if wrong or not 0 < len({*self.layers}) < num_layers:
            raise ConfigError(
                f"--prune: layers {[*self.layers]} cannot be left out of {num_layers}; leave some of 0 to "
                f"{num_layers - 1}"
            )
        if architecture.altup is not None:
            raise UnsupportedModel(
                f"{architecture.family} cannot be pruned: its layers share streams and caches; leave --prune out"
            )

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model without these layers."""
        kept = self.kept(architecture.dimensions.num_layers)
        widths = _of(architecture.ffn_widths, kept)
        experts = architecture.experts
        if experts is not None:
            experts = replace(experts, layers=_of(experts.layers, kept))
        inner = architecture.dimensions.intermediate_size
        if inner == max(architecture.ffn_widths):
            inner = max(widths)
        fewer = replace(
            architecture,
            dimensions=replace(architecture.dimensions, num_layers=len(kept), intermediate_size=inner),
            windows=_of(architecture.windows, kept),
            rotaries=_of(architecture.rotaries, kept),
            ffn_widths=widths,
            attention_scales=_of(architecture.attention_scales, kept),
            experts=experts,
        )
        return fewer, _MovedTensors(tensors, *_moves(architecture, kept))

    def kept(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers that stay."""
        return tuple(layer for layer in range(num_layers) if layer not in self.layers)

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Return config.json with fewer layers. Raises: UnsupportedModel where their kinds follow from their places."""
        if (inner := config.get("text_config")) is not None:
            return {**config, "text_config": self.settings(inner, architecture)}
        num_layers = architecture.dimensions.num_layers
        kept = self.kept(num_layers + len({*self.layers}))
        lists = {
            key: [value[layer] for layer in kept]
            for key, value in config.items()
            if isinstance(value, list) and len(value) == kept[-1] + 1 + sum(layer > kept[-1] for layer in self.layers)
        }
        kinds = {(window, architecture.is_mixture(layer)) for layer, window in enumerate(architecture.windows)}
        if len(kinds) > 1 and not lists:
            raise UnsupportedModel(
                f"--check cannot leave out layers of a {architecture.family}, whose kinds follow from their places; "
                "leave --check out"
            )
        return {**config, **lists, **{key: num_layers for key in COUNTS if key in config}}


class _MovedTensors(ChangedTensors):
    """The tensors of a model some of which have the names of others. `old_names` are those that layers may have."""

    def __init__(self, source: TensorSource, moves: Mapping[str, str], old_names: frozenset[str]) -> None:
        super().__init__(source)
        there = source.names()
        self._moves = {new: old for new, old in moves.items() if old in there}
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


def _moves(architecture: Architecture, kept: tuple[int, ...]) -> tuple[dict[str, str], frozenset[str]]:
    """Return the new name of each tensor of a layer that stays with its old one, and all old names of layers."""

    def names_of(layer: int) -> list[str]:
        names = [name for name, theirs in architecture.names.items() if "{layer}" in theirs]
        biases = [f"{name}_bias" for name in architecture.biases]
        plain = [theirs for name in names if name not in biases for theirs in architecture.stored_names(name, layer)]
        return plain + [architecture.names[name].format(layer=layer) for name in biases if name in architecture.names]

    moves: dict[str, str] = {}
    for new, old in enumerate(kept):
        moves |= dict(zip(names_of(new), names_of(old), strict=True))
    everything = (name for layer in range(architecture.dimensions.num_layers) for name in names_of(layer))
    return moves, frozenset(everything)
