"""Graphs that optimum traces, in our bundle."""

from __future__ import annotations

from skipstone.exporters.optimum.plan import WrappedPlan, plan_wrapped

__all__ = ["WrappedPlan", "plan_wrapped"]
