"""`skipstone tune`: measure the device and calibrate methods."""

from __future__ import annotations

from skipstone.cli.tune.group import tune

__all__ = ["tune"]
