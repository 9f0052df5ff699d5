"""The share of tokens that are to be the full model's choice."""

from __future__ import annotations

from skipstone.errors import ConfigError

__all__ = ["AGREEMENTS", "require_agreement"]

AGREEMENTS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)


def require_agreement(min_agreement: float) -> None:
    """Raise ConfigError for an agreement that no calibration knows."""
    if not AGREEMENTS[0] <= min_agreement <= 1:
        raise ConfigError(f"min_agreement must lie between {AGREEMENTS[0]} and 1, got {min_agreement}")
