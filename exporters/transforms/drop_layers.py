"""A smaller model out of fewer layers: some are left out, the others move up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.layer_parts import LayerPart, arranged
from skipstone.exporters.transforms.transform import Transform

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
        return f"pruned layers {', '.join(map(str, self.layers))} (from 0)"

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
        return arranged(architecture, tensors, [LayerPart(layer=layer) for layer in kept])

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
