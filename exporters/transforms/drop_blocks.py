"""A smaller model out of fewer blocks: some layers keep their attention or their FFN alone, some nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.layer_parts import LayerPart, arranged
from skipstone.exporters.transforms.transform import Transform

__all__ = ["DropBlocks", "SplitLayers"]

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBlocks(Transform):
    """Leaves out the attention of some layers and the FFN of some, counted from 0; a layer without both goes.

    A mixture of experts counts as an FFN. Integers stay integers: no matrix changes.
    Source: attention and MLP dropping, as in EvoPress (Sieberling et al., 2024).
    """

    keeps_matrices: ClassVar[bool] = True

    attention: Layers = ()
    ffn: Layers = ()

    def __str__(self) -> str:
        kinds = {"attention": self.attention, "FFN": self.ffn}
        blocks = [f"{kind} of layers {', '.join(map(str, layers))}" for kind, layers in kinds.items() if layers]
        return f"pruned {' and '.join(blocks)} (from 0)"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise ConfigError for blocks that are not there, or all; UnsupportedModel where layers share something."""
        num_layers = architecture.dimensions.num_layers
        wrong = [layer for layer in (*self.attention, *self.ffn) if not 0 <= layer < num_layers]
        if wrong or not self.attention + self.ffn:
            raise ConfigError(f"--prune: layers {wrong} are not there; leave blocks of 0 to {num_layers - 1} out")
        if not {layer for layer in range(num_layers) if architecture.has_attention(layer)} - {*self.attention}:
            raise ConfigError("--prune: no attention would be left; leave out that of fewer layers")
        _refuse_streams(architecture)

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model without these blocks."""
        parts = [
            LayerPart(layer=layer, attention=layer not in self.attention, ffn=layer not in self.ffn)
            for layer in range(architecture.dimensions.num_layers)
        ]
        return arranged(architecture, tensors, [part for part in parts if _has_some(architecture, part)])

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Raise UnsupportedModel: transformers has no layers of one block."""
        raise UnsupportedModel("transformers has no model some of whose layers lack a block; leave --check out")


class SplitLayers(Transform):
    """Makes two layers of each: its attention, then its FFN. The model stays the same; see `block_of`."""

    keeps_matrices: ClassVar[bool] = True

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel where both blocks of a layer read the same, or layers share something."""
        _refuse_streams(architecture)
        if architecture.parallel:
            raise UnsupportedModel(
                f"the attention and the FFN of a {architecture.family} read the same input, so no block can be judged "
                "alone: prune whole layers, as --prune 2layers does"
            )

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model of twice as many layers."""
        parts: list[LayerPart] = []
        for layer in range(architecture.dimensions.num_layers):
            parts += [LayerPart(layer=layer, ffn=False), LayerPart(layer=layer, attention=False)]
        return arranged(architecture, tensors, parts)


def _has_some(architecture: Architecture, part: LayerPart) -> bool:
    attends = part.attention and architecture.has_attention(part.layer)
    return attends or (part.ffn and architecture.has_ffn(part.layer))


def _refuse_streams(architecture: Architecture) -> None:
    if architecture.altup is not None:
        raise UnsupportedModel(
            f"{architecture.family} cannot be pruned: its layers share streams and caches; leave --prune out"
        )
