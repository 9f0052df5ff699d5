"""`auto`: the plan with the most expected tokens per second."""

from __future__ import annotations

from skipstone.runtime.methods.auto.knowledge import CallTimes, Knowledge, LOOP_S
from skipstone.runtime.methods.auto.planner import Planner, best_cut

__all__ = ['CallTimes', 'Knowledge', 'LOOP_S', 'Planner', 'best_cut']
