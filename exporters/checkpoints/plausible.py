"""Whether the sizes in config.json can be those of the stored tensors, before anything is computed from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint

__all__ = ["require_plausible"]

_COUNT: Final = re.compile(
    "^n_|^num_|^d_|^head_dim|(_size|_dims?|_layers?|_heads|_experts|_inputs|_rank|_width|_per_layer_input)$"
)
# Sizes of a text, and numbers of positions, are no sizes of tensors.
_OF_TEXTS: Final = re.compile(r"position|context|ctx|window|chunk|seq|image|patch|batch|block_size|group_size")
_OF_LAYERS: Final = re.compile(r"(layers?|inputs|streams)$|^n_layer")
_POSITIVE: Final = re.compile(r"(theta|eps|epsilon)$")
# A model of few or small tensors may still count so many of what it does not store.
_LEAST_SIZE, _LEAST_LAYERS = 1024, 128


def require_plausible(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a size that no stored tensor has room for, and for a number that is none.

    A size is no larger than the largest dimension of a tensor, or than the number of tensors; layers are no more than
    tensors.
    """
    names = checkpoint.tensors.names()
    largest = max((size for name in names for size in checkpoint.tensors.shape(name)), default=0)
    most_layers = max(len(names), _LEAST_LAYERS)
    for key, value in _settings(checkpoint.config):
        if isinstance(value, float) and not isfinite(value):
            raise CheckpointError(f"config.json: {key} must be a finite number, found {value}")
        if _POSITIVE.search(key) and isinstance(value, int | float) and value < 0:
            raise CheckpointError(f"config.json: {key} must not be negative, found {value:g}")
        if not _COUNT.search(key) or _OF_TEXTS.search(key):
            continue
        most = most_layers if _OF_LAYERS.search(key) else max(largest, most_layers, _LEAST_SIZE)
        for size in value if isinstance(value, list) else [value]:  # some sizes differ by layer
            if type(size) is not int or size <= most:
                continue
            raise CheckpointError(
                f"config.json: {key} {_told(size)} does not fit the weights, whose {len(names)} tensors have at most "
                f"{largest} rows or columns: they do not belong together"
            )


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that models are made of: those of the whole, and of the text model inside it."""
    for key, value in config.items():
        if key in ("text_config", "rope_parameters", "rope_scaling") and isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value


def _told(value: int) -> str:
    return str(value) if value.bit_length() < 100 else f"of {value.bit_length()} bits"
