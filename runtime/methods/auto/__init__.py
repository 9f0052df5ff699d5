"""`auto`: the plan with the most expected tokens per millisecond."""

from __future__ import annotations

from skipstone.runtime.methods.auto.knowledge import LOOP_MS, CallTimes, Knowledge
from skipstone.runtime.methods.auto.planner import Planner, best_cut

__all__ = ["LOOP_MS", "CallTimes", "Knowledge", "Planner", "best_cut"]
