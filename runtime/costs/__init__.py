"""What a call costs on this device, as a function of its rows and of the context."""

from __future__ import annotations

from skipstone.runtime.costs.cache_choice import CacheChoice, crossings, find_cache
from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.costs.measure import (
    MAX_ROWS,
    ROUGH_ROW,
    cost_curve,
    costs_note,
    known_curve,
    measure_costs,
    rough_curve,
)
from skipstone.runtime.costs.rates import MIN_GAIN, TIMES_MEMORY, Plan, best_length, best_speed_up, usual_s
from skipstone.runtime.costs.stage_times import MOST_BEHIND, ExitTimes, StageTimes, exit_times, stage_times

__all__ = [
    "MAX_ROWS",
    "MIN_GAIN",
    "MOST_BEHIND",
    "ROUGH_ROW",
    "TIMES_MEMORY",
    "CacheChoice",
    "CostCurve",
    "ExitTimes",
    "Plan",
    "StageTimes",
    "best_length",
    "best_speed_up",
    "cost_curve",
    "costs_note",
    "crossings",
    "exit_times",
    "find_cache",
    "known_curve",
    "measure_costs",
    "rough_curve",
    "stage_times",
    "usual_s",
]
