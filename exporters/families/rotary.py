"""Rotary positions: how fast each pair of channels turns, under the scalings that we know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.runtime.bundle import RotaryEntry

__all__ = ["Rotary", "read_rotary"]

Floats: TypeAlias = NDArray[np.float64]
Parameter: TypeAlias = "float | tuple[float, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """The rotary positions of a layer: the first `size` channels of a head turn, in pairs (i, i + size / 2).

    `base` is theta; `scaling` names how frequencies are stretched, `parameters` are that scaling's own. From a text of
    more than `switch_after` tokens on, all its positions use `long` instead; None is never.
    """

    base: float
    size: int
    scaling: str = "default"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    long: Rotary | None = None
    switch_after: int | None = None

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            known = ", ".join(sorted(SCALINGS))
            raise UnsupportedModel(f"rope type '{self.scaling}' is not known; known are {known}")
        if self.size < 2 or self.size % 2:
            raise CheckpointError(f"config.json: rotary turns pairs of channels, found {self.size} of them in a head")
        # What is missing or cannot be is refused here, not in the middle of an export.
        with np.errstate(all="ignore"):
            is_finite = np.isfinite([self.magnitude, *self.frequencies()]).all()
        if not is_finite:
            raise CheckpointError("config.json: angles of rope are no finite numbers; rope_theta or a factor is wrong")

    def frequencies(self) -> Floats:
        """Return radians per position for each pair of channels [size / 2]; numbers of float32.

        Models are trained and run with exponents, frequencies and angles rounded to float32: far out in a text that
        moves the angles visibly, so we round as they do.
        """
        exponents = np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        wavelengths = (self.base ** exponents.astype(np.float64)).astype(np.float32)
        plain = (np.float32(1) / wavelengths).astype(np.float64)
        try:
            return SCALINGS[self.scaling](plain, self).astype(np.float32).astype(np.float64)
        except KeyError as error:
            raise CheckpointError(f"rope type '{self.scaling}' needs {error.args[0]} in config.json") from error

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by: `attention_factor` where stated, else what the paper derives."""
        derived = _yarn_magnitude(self) if self.scaling == "yarn" else 1.0
        return self.number("attention_factor", derived)

    def number(self, name: str, otherwise: float | None = None) -> float:
        """Return a parameter that is one number. Raises: KeyError when it is missing and `otherwise` is None."""
        value = self.parameters[name] if otherwise is None else self.parameters.get(name, otherwise)
        if isinstance(value, tuple):
            raise CheckpointError(f"rope type '{self.scaling}': {name} must be a number, found a list")
        return value

    def entry(self) -> RotaryEntry:
        """Return what the manifest says of these positions."""
        return RotaryEntry(
            frequencies=tuple(self.frequencies().tolist()),
            magnitude=self.magnitude,
            long_frequencies=None if self.long is None else tuple(self.long.frequencies().tolist()),
        )


def _default(plain: Floats, rotary: Rotary) -> Floats:
    return plain


def _linear(plain: Floats, rotary: Rotary) -> Floats:
    return plain / rotary.number("factor")


def _llama3(plain: Floats, rotary: Rotary) -> Floats:
    """Slow waves are stretched by `factor`, fast ones kept, those between blended; Llama 3.1's release."""
    low, high = rotary.number("low_freq_factor"), rotary.number("high_freq_factor")
    turns = rotary.number("original_max_position_embeddings") * plain / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1 - keep) / rotary.number("factor"))


def _yarn(plain: Floats, rotary: Rotary) -> Floats:
    """Pairs that turn more than `beta_fast` times in the first context are kept, below `beta_slow` stretched.

    Source: YaRN (Peng et al., 2023), NTK by parts: the blend is linear in the number of the pair.
    """
    context = rotary.number("original_max_position_embeddings")

    def pair_that_turns(times: float) -> float:
        return rotary.size * math.log(context / (times * 2 * math.pi)) / (2 * math.log(rotary.base))

    low, high = pair_that_turns(rotary.number("beta_fast", 32.0)), pair_that_turns(rotary.number("beta_slow", 1.0))
    if rotary.number("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.size - 1)
    stretched = np.clip((np.arange(len(plain)) - low) / (high - low or 0.001), 0.0, 1.0)
    frequencies: Floats = plain * (1 - stretched + stretched / rotary.number("factor"))
    return frequencies


def _yarn_magnitude(rotary: Rotary) -> float:
    factor = rotary.number("factor")

    def grown(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    weight, weight_of_all = rotary.number("mscale", 0.0), rotary.number("mscale_all_dim", 0.0)
    return grown(weight) / grown(weight_of_all) if weight and weight_of_all else grown(1.0)


def _factors(plain: Floats, rotary: Rotary) -> Floats:
    """Each pair has a divisor of its own."""
    factors = rotary.parameters["factors"]
    if not isinstance(factors, tuple) or len(factors) != len(plain):
        found = len(factors) if isinstance(factors, tuple) else "one number"
        raise CheckpointError(f"config.json: rope factors: {len(plain)} are wanted, one per pair, found {found}")
    divisors = np.array(factors, np.float64)
    return plain / divisors


SCALINGS: Mapping[str, Callable[[Floats, Rotary], Floats]] = {
    "default": _default,
    "dynamic": _default,  # it stretches beyond the context only, and a bundle ends there
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "factors": _factors,
}


def read_rotary(config: Mapping[str, Any], head_size: int, layer_type: str = "full_attention") -> Rotary:
    """Return what config.json says of layers of one type, in the spelling of any time.

    Parameters stand in rope_parameters or in rope_scaling, those of all layers or by layer type; theta and the share
    of channels that turn stand there or beside. Raises: UnsupportedModel, CheckpointError.
    """
    stated = _stated(config, layer_type)
    scaling = stated.pop("rope_type", None) or stated.pop("type", None) or "default"
    stated.pop("type", None)
    base = float(stated.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    share = stated.pop("partial_rotary_factor", None)
    if share is None:
        share = config.get("partial_rotary_factor")
    size = head_size if share is None else int(head_size * share)
    context = config.get("max_position_embeddings")
    original = config.get("original_max_position_embeddings")
    if original is not None:
        stated["original_max_position_embeddings"] = original
    stated.setdefault("original_max_position_embeddings", context)
    parameters = {key: _parameter(value) for key, value in stated.items() if _is_parameter(value)}
    if scaling in ("longrope", "su"):
        return _read_longrope(base, size, parameters, context)
    if scaling == "yarn" and "factor" not in parameters and context:
        parameters["factor"] = context / stated["original_max_position_embeddings"]
    return Rotary(base=base, size=size, scaling=scaling, parameters=parameters)


def _stated(config: Mapping[str, Any], layer_type: str) -> dict[str, Any]:
    stated = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    by_type = {key: value for key, value in stated.items() if isinstance(value, Mapping)}
    if not by_type:
        return stated
    if layer_type not in by_type:
        raise CheckpointError(f"config.json: rope parameters are given for {', '.join(by_type)}, not for {layer_type}")
    return dict(by_type[layer_type])


def _is_parameter(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, list) and all(isinstance(x, int | float) for x in value)
    )


def _parameter(value: Any) -> Parameter:
    return tuple(map(float, value)) if isinstance(value, list) else float(value)


def _read_longrope(base: float, size: int, parameters: dict[str, Parameter], context: int | None) -> Rotary:
    """Return the short form, with the long one behind it. Source: LongRoPE (Ding et al., 2024)."""
    for name in ("short_factor", "long_factor"):
        if name not in parameters:
            raise CheckpointError(f"rope type 'longrope' needs {name} in config.json")
    original = parameters["original_max_position_embeddings"]
    assert isinstance(original, float)
    factor = parameters.get("factor") or (context or original) / original
    assert isinstance(factor, float)
    magnitude = parameters.get("attention_factor")
    if magnitude is None:
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))

    def form(name: str) -> dict[str, Any]:
        own = {"factors": parameters[name], "attention_factor": magnitude}
        return {"base": base, "size": size, "scaling": "factors", "parameters": own}

    return Rotary(**form("short_factor"), long=Rotary(**form("long_factor")), switch_after=int(original))
