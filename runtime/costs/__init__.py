"""What a call costs on this device, as a function of its rows and of the context."""

from __future__ import annotations

from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.costs.exit_times import MOST_BEHIND, ExitTimes, exit_times, tokens_per_s
from skipstone.runtime.costs.measure import MAX_ROWS, measure_costs
from skipstone.runtime.costs.profile import cost_curve, costs_note, device_note
from skipstone.runtime.costs.stage_times import (
    LONGEST,
    ROWS,
    TIMES_MEMORY,
    StageTimes,
    best_length,
    best_speed_up,
    speed_up,
    stage_times,
    usual_s,
)

__all__ = [
    "LONGEST",
    "MAX_ROWS",
    "MOST_BEHIND",
    "ROWS",
    "TIMES_MEMORY",
    "CostCurve",
    "ExitTimes",
    "StageTimes",
    "best_length",
    "best_speed_up",
    "cost_curve",
    "costs_note",
    "device_note",
    "exit_times",
    "measure_costs",
    "speed_up",
    "stage_times",
    "tokens_per_s",
    "usual_s",
]
