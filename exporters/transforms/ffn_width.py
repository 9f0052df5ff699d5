"""A smaller model out of nested FFNs: the first channels of each, for which MatFormer checkpoints are trained."""

from __future__ import annotations

from dataclasses import replace

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture

__all__ = ["narrowed"]


def narrowed(architecture: Architecture, tensors: TensorSource, text: str) -> Architecture:
    """Return the architecture with FFNs of the widths in `text`: one number, or one per layer apart by commas.

    Source: MatFormer (Devvrit et al., 2023): every prefix of the inner channels is a model that was trained too.
    Raises: ConfigError for widths that do not fit; UnsupportedModel where FFNs are experts or stored as integers.
    """
    num_layers = architecture.dimensions.num_layers
    widths = _widths(text, num_layers)
    if architecture.experts is not None:
        raise UnsupportedModel("--ffn-width is for nested FFNs, and this model has experts: leave it out")
    for layer, (width, stored) in enumerate(zip(widths, architecture.stored_widths, strict=True)):
        if not 1 <= width <= stored:
            raise ConfigError(f"--ffn-width: layer {layer} has {stored} channels, {width} wanted; give 1 to {stored}")
        down = architecture.names["down"].format(layer=layer)
        if width < stored and tensors.is_quantized(down):
            raise UnsupportedModel(
                f"--ffn-width: {down} is stored as integers, whose blocks cannot be cut; "
                "take the checkpoint as it was before quantization"
            )
    dimensions = replace(architecture.dimensions, intermediate_size=max(widths))
    return replace(architecture, ffn_widths=widths, dimensions=dimensions)


def _widths(text: str, num_layers: int) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--ffn-width takes a number, or one per layer like 8192,4096, not '{text}'") from error
    if len(widths) not in (1, num_layers):
        raise ConfigError(f"--ffn-width: {len(widths)} widths for {num_layers} layers; give one, or one per layer")
    return widths if len(widths) == num_layers else widths * num_layers
