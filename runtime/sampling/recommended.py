"""How to choose tokens where a person leaves it to the model: as its makers recommend, else as most chats do."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

from skipstone.option_types import checked
from skipstone.runtime.sampling.options import NEEDS_TEMPERATURE, SamplingOptions

__all__ = ["UNSAID", "SamplingBase", "recommended_sampling", "sampling_from", "seeded"]

UNSAID: Final[Mapping[str, float]] = {"temperature": 0.7, "top_p": 0.95, "min_p": 0.05}
"""What a chat takes where a model recommends no temperature."""
SamplingBase: TypeAlias = Literal["greedy", "model"] | SamplingOptions
_WHOLE: Final = ("top_k", "no_repeat_ngram")


def recommended_sampling(said: Mapping[str, float]) -> dict[str, Any]:
    """Return what a model recommends, by the names of the options; with `UNSAID` where it says no temperature."""
    values = said if "temperature" in said else {**UNSAID, **said}
    return {name: int(value) if name in _WHOLE else value for name, value in values.items()}


def sampling_from(base: SamplingBase, said: Mapping[str, float], changes: Mapping[str, Any]) -> SamplingOptions:
    """Return the options of a base with single values changed; `said` is what the model's manifest recommends.

    At temperature 0 the recommended truncations do not count. Raises: ConfigError for values out of range, and for an
    unknown base.
    """
    if isinstance(base, SamplingOptions):
        return replace(base, **changes)
    checked("sampling", base, SamplingBase)
    if base == "greedy":
        return SamplingOptions(**changes)
    values = recommended_sampling(said)
    if checked("temperature", changes.get("temperature", values["temperature"]), float) == 0:
        values = {name: value for name, value in values.items() if name not in NEEDS_TEMPERATURE}
    return SamplingOptions(**{**values, **changes})


def seeded(options: SamplingOptions) -> SamplingOptions:
    """Return the same options with a seed drawn where none is given; a greedy choice has no chance in it."""
    if options.greedy or options.seed is not None:
        return options
    return replace(options, seed=secrets.randbelow(2**32))
