"""`auto`: the plan with the most expected tokens per second."""

from __future__ import annotations

from skipstone.runtime.methods.auto.knowledge import LOOP_S, CallTimes, Knowledge
from skipstone.runtime.methods.auto.planner import Planner, best_cut

__all__ = ["LOOP_S", "CallTimes", "Knowledge", "Planner", "best_cut"]
