"""What callers of Python may give where a number is wanted."""

from __future__ import annotations

from numbers import Real

from skipstone.errors import ConfigError

__all__ = ["require_number"]


def require_number(name: str, value: object) -> None:
    """Raise ConfigError for what is no number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")
