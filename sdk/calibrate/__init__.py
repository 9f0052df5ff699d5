"""Calibrated exports: weights rounded by what they are multiplied by on a text, and recipes that keep a budget."""

from __future__ import annotations

from skipstone.calibrate.budget import Budget
from skipstone.calibrate.documents import Documents
from skipstone.calibrate.export import Calibration, within_budget

__all__ = ["Budget", "Calibration", "Documents", "within_budget"]
