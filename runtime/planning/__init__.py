"""What is fastest here: the cost of a call, the chance of a guess, and the plan made of both."""

from skipstone.runtime.planning.knowledge import LOOP_MS
from skipstone.runtime.planning.measure import MAX_ROWS, measure_costs
from skipstone.runtime.planning.method import Method
from skipstone.runtime.planning.planner import Planner
from skipstone.runtime.planning.profile import cost_curve, profile_path, save_curve

__all__ = ["LOOP_MS", "MAX_ROWS", "Method", "Planner", "cost_curve", "measure_costs", "profile_path", "save_curve"]
