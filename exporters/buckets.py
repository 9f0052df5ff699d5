"""Which sizes the graphs of fixed shapes have: by default, and as the option says."""

from __future__ import annotations

import itertools
from typing import Final

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.bundle import Buckets

__all__ = ["check_buckets", "plan_buckets"]

_ROWS: Final = (1, 4, 16)
_LEAST: Final = 512
_MOST: Final = 2048


def check_buckets(text: str) -> Buckets:
    """Return the sizes of `ROWSxCONTEXTS`, such as `1,4,16x512,2048`. Raises: ConfigError."""
    rows, _, contexts = text.partition("x")
    try:
        return Buckets(rows=_numbers(rows), contexts=_numbers(contexts))
    except (ValueError, BundleError) as error:
        raise ConfigError(
            f"--buckets takes rows and contexts that rise, like 1,4,16x512,2048, not '{text[:80]}'"
        ) from error


def plan_buckets(text: str | None, context_length: int) -> Buckets:
    """Return the sizes for a model that sees so many tokens; by default powers of two from 512 to 2048.

    Raises: ConfigError for a cache of more tokens than the model sees.
    """
    if text is None:
        most = min(_MOST, context_length)
        powers = itertools.takewhile(lambda size: size < most, (_LEAST << power for power in itertools.count()))
        return Buckets(rows=tuple(rows for rows in _ROWS if rows <= most), contexts=(*powers, most))
    buckets = check_buckets(text)
    if (longest := buckets.contexts[-1]) > context_length:
        raise ConfigError(f"--buckets {text}: a cache of {longest} tokens, but the model sees {context_length}")
    return buckets


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
