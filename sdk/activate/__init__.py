"""Search how many experts of each layer are active at a share of all."""

from __future__ import annotations

from skipstone.activate.budget import ActiveBudget
from skipstone.activate.find import find_levels
from skipstone.activate.times import step_times_ms

__all__ = ["ActiveBudget", "find_levels", "step_times_ms"]
