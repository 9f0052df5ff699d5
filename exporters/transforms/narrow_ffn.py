"""A smaller model out of narrower FFNs: of each layer those channels stay that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.narrowed_tensors import NarrowedTensors, kept_channels
from skipstone.exporters.transforms.transform import Transform
from skipstone.exporters.transforms.weight_changes import Change, WeightChanges

__all__ = ["NarrowFfn", "refuse_narrow"]

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NarrowFfn(Transform):
    """Keeps some channels of the FFN of each layer: `channels` by layer, ascending; other layers keep all.

    `down` may have the matrices [E, channels] that lead out of them, fitted to make up for the others.
    Integers of matrices whose columns are cut become numbers.
    Source: structured pruning by forward passes, Bonsai (Dery et al., 2024).
    """

    channels: Mapping[int, tuple[int, ...]]
    down: Mapping[int, Floats] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        layers = sorted(self.channels)
        widths = ", ".join(f"{layer}: {len(self.channels[layer])}" for layer in layers)
        return f"pruned FFN channels, {sum(map(len, self.channels.values()))} stay in {len(layers)} layers ({widths})"

    def __hash__(self) -> int:
        return hash(tuple(sorted((layer, *channels) for layer, channels in self.channels.items())))

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise ConfigError for channels that are not there; UnsupportedModel where FFNs are experts or streams."""
        refuse_narrow(architecture)
        for layer, channels in self.channels.items():
            is_layer = 0 <= layer < architecture.dimensions.num_layers and architecture.has_ffn(layer)
            width = architecture.ffn_widths[layer] if is_layer else 0
            if not channels or [*channels] != sorted({*channels} & {*range(width)}):
                raise ConfigError(f"--prune: layer {layer} has {width} channels; keep some of them, ascending")

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model with these channels."""
        channels = [
            np.array(self.channels.get(layer, range(width)), np.int64)
            for layer, width in enumerate(architecture.ffn_widths)
        ]
        widths = tuple(map(len, channels))
        if widths == architecture.ffn_widths:
            return architecture, tensors
        dimensions = replace(architecture.dimensions, intermediate_size=max(widths))
        narrow = replace(architecture, ffn_widths=widths, dimensions=dimensions)
        changed = NarrowedTensors(tensors, narrow.tensor_shapes(), kept_channels(architecture, channels))
        return narrow, self._fitted(narrow, changed) if self.down else changed

    def _fitted(self, architecture: Architecture, tensors: TensorSource) -> TensorSource:
        fitted = WeightChanges(tensors, architecture)
        for layer, matrix in self.down.items():
            fitted.note("down", layer, _always(matrix))
        return fitted

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Raise UnsupportedModel: transformers has one width for all layers."""
        raise UnsupportedModel("transformers has one FFN width for all layers; leave --check out")


def _always(matrix: Floats) -> Change:
    return lambda before: matrix


def refuse_narrow(architecture: Architecture) -> None:
    """Raise UnsupportedModel where an FFN is more than two or three matrices."""
    reasons = {
        "its FFNs are experts, of which each token takes few": architecture.experts is not None,
        "its layers share streams": architecture.altup is not None,
        "they are carved into experts": architecture.carving is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedModel(
                f"the FFNs of a {architecture.family} cannot be narrowed, as {reason}: prune whole layers, or nothing"
            )
