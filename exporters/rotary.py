"""Rotary position tables: the angle of each pair of channels at each position, under the scalings that we know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """`base` is theta; `scaling` names how frequencies are stretched, `parameters` are that scaling's own."""

    base: float
    scaling: str = "default"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            known = ", ".join(sorted(SCALINGS))
            raise UnsupportedModel(f"rope type '{self.scaling}' is not known; known are {known}")
        self.frequencies(2)  # a missing parameter is refused here, not in the middle of an export

    def frequencies(self, size: int) -> NDArray[np.float64]:
        """Return radians per position for each pair of `size` channels, float64 [size / 2]."""
        plain = self.base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
        try:
            return SCALINGS[self.scaling](plain, self.parameters)
        except KeyError as error:
            raise CheckpointError(f"rope type '{self.scaling}' needs {error.args[0]} in config.json") from error

    def tables(
        self, size: int, context_length: int, *, padded_size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosines and sines, float32 [context_length, padded_size / 2] each; the padding is not turned."""
        frequencies = np.pad(self.frequencies(size), (0, (padded_size - size) // 2))
        angles = np.outer(np.arange(context_length), frequencies)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _default(plain: NDArray[np.float64], parameters: Mapping[str, float]) -> NDArray[np.float64]:
    return plain


def _linear(plain: NDArray[np.float64], parameters: Mapping[str, float]) -> NDArray[np.float64]:
    return plain / parameters["factor"]


def _llama3(plain: NDArray[np.float64], parameters: Mapping[str, float]) -> NDArray[np.float64]:
    """Slow waves are stretched by `factor`, fast ones kept, those between blended; Llama 3.1's release."""
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters["original_max_position_embeddings"] * plain / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1 - keep) / parameters["factor"])


SCALINGS: Mapping[str, Callable[[NDArray[np.float64], Mapping[str, float]], NDArray[np.float64]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
}


def read_rotary(config: Mapping[str, Any]) -> Rotary:
    """Return what config.json says, in the old spelling (rope_theta, rope_scaling) or the new (rope_parameters)."""
    stated = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    scaling = stated.pop("rope_type", None) or stated.pop("type", None) or "default"
    stated.pop("type", None)
    base = stated.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    if stated.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("partial_rotary_factor other than 1 is not supported for this family")
    per_layer_type = [key for key, value in stated.items() if isinstance(value, Mapping)]
    if per_layer_type:
        raise UnsupportedModel(f"rope parameters of their own for {', '.join(per_layer_type)} are not supported")
    numbers = {key: float(value) for key, value in stated.items() if isinstance(value, int | float)}
    return Rotary(base=float(base), scaling=scaling, parameters=numbers)
