"""Options by name, of sampling and of generation alike, as the options of one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.sampling import SamplingOptions, sampling_from
from skipstone.runtime.text import CHAT_STOP_LOOPS
from skipstone.spellings import spelled_here, unknown_option

__all__ = ["CHAT_DEFAULTS", "chat_options", "generation_options", "sampling_options"]

_SAMPLING_FIELDS = frozenset(SamplingOptions.__dataclass_fields__)
_FIELDS = _SAMPLING_FIELDS | set(GenerationOptions.__dataclass_fields__)
CHAT_DEFAULTS: Final[Mapping[str, Any]] = {"max_new_tokens": 256, "stop_loops": CHAT_STOP_LOOPS, "sampling": "model"}
"""What the options of an answer are where nothing is said."""


def chat_options(*, recommended: Mapping[str, float] | None = None, **options: Any) -> GenerationOptions:
    """Return the options of an answer in a chat: as `generation_options`, on top of `CHAT_DEFAULTS`."""
    given = {name: value for name, value in spelled_here(options).items() if value is not None}
    return generation_options(recommended=recommended, **{**CHAT_DEFAULTS, **given})


def generation_options(*, recommended: Mapping[str, float] | None = None, **options: Any) -> GenerationOptions:
    """Return options given by name, of sampling and of generation alike.

    `sampling` is the base of the former: `greedy`, the default, or `model`, what the model recommends (its manifest's
    `sampling`, here `recommended`); the other options change single values of it. None is an option that is not set.
    Spellings of other programs that mean the same are taken; see `spellings.py`.
    Raises: ConfigError for an unknown name and for a value that does not fit.
    """
    options = spelled_here(options)
    if unknown := set(options) - _FIELDS:
        raise unknown_option(unknown, _FIELDS)
    options = {name: value for name, value in options.items() if value is not None}
    changes = {name: value for name, value in options.items() if name in _SAMPLING_FIELDS}
    rest = {name: value for name, value in options.items() if name not in _SAMPLING_FIELDS}
    sampling = sampling_from(rest.pop("sampling", "greedy"), recommended or {}, changes)
    if isinstance(rest.get("stop"), str):
        rest["stop"] = (rest["stop"],)
    return GenerationOptions(sampling=sampling, **rest)


def sampling_options(*, recommended: Mapping[str, float] | None = None, **options: Any) -> SamplingOptions:
    """Return options of sampling given by name, on the base `sampling`, as `generation_options`; seeded if drawn.

    Raises: ConfigError for an unknown name and for a value that does not fit.
    """
    options, known = spelled_here(options), _SAMPLING_FIELDS | {"sampling"}
    if unknown := set(options) - known:
        raise unknown_option(unknown, known)
    return generation_options(recommended=recommended, **options).seeded().sampling
