"""A smaller model out of nested FFNs: the first channels of each, for which MatFormer checkpoints are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.narrowed_tensors import NarrowedTensors, kept_channels
from skipstone.exporters.transforms.transform import Transform

__all__ = ["FfnWidth"]


@dataclass(frozen=True, slots=True)
class FfnWidth(Transform):
    """Narrows the FFNs to `widths`: one number, or one per layer apart by commas.

    Source: MatFormer (Devvrit et al., 2023): every prefix of the inner channels is a model that was trained too.
    Raises: ConfigError for a text that holds no widths.
    """

    widths: str

    def __post_init__(self) -> None:
        _numbers(self.widths)

    def __str__(self) -> str:
        return f"ffn-width {self.widths}"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise ConfigError for widths that do not fit; UnsupportedModel where FFNs are experts or integers."""
        widths = self._by_layer(architecture)
        if architecture.experts is not None:
            raise UnsupportedModel("--ffn-width is for nested FFNs, and this model has experts: leave it out")
        for layer, (width, whole) in enumerate(zip(widths, architecture.ffn_widths, strict=True)):
            if not 1 <= width <= whole:
                raise ConfigError(f"--ffn-width: layer {layer} has {whole} channels, {width} wanted; give 1 to {whole}")
            down = architecture.names["down"].format(layer=layer)
            if width < whole and tensors.is_quantized(down):
                raise UnsupportedModel(
                    f"--ffn-width: {down} is stored as integers, whose blocks cannot be cut; "
                    "take the checkpoint as it was before quantization"
                )

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model with the first channels of each FFN."""
        widths = self._by_layer(architecture)
        if widths == architecture.ffn_widths:
            return architecture, tensors
        dimensions = replace(architecture.dimensions, intermediate_size=max(widths))
        narrow = replace(architecture, ffn_widths=widths, dimensions=dimensions)
        channels = [np.arange(width) for width in widths]
        return narrow, NarrowedTensors(tensors, narrow.tensor_shapes(), kept_channels(architecture, channels))

    def ensures(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel unless the widths are those that were asked for."""
        if architecture.ffn_widths != self._by_layer(architecture):
            raise UnsupportedModel(f"{self} gives FFNs of the widths {architecture.ffn_widths}")

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Return config.json with the narrower FFNs. Raises: UnsupportedModel where transformers has no such model."""
        if (inner := config.get("text_config")) is not None:
            return {**config, "text_config": self.settings(inner, architecture)}
        if "intermediate_size" not in config or architecture.has("gate_up"):
            raise UnsupportedModel(f"--check cannot narrow a {architecture.family} of transformers; leave it out")
        widths, is_list = architecture.ffn_widths, isinstance(config["intermediate_size"], list)
        if not is_list and len(set(widths)) > 1:
            raise UnsupportedModel(f"transformers has one FFN width for a {architecture.family}; leave --check out")
        return {**config, "intermediate_size": [*widths] if is_list else widths[0]}

    def _by_layer(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the width of each layer. Raises: ConfigError for another number of them."""
        widths, num_layers = _numbers(self.widths), architecture.dimensions.num_layers
        if len(widths) not in (1, num_layers):
            raise ConfigError(f"--ffn-width: {len(widths)} widths for {num_layers} layers; give one, or one per layer")
        return widths if len(widths) == num_layers else widths * num_layers


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--ffn-width takes a number, or one per layer like 8192,4096, not '{text}'") from error
