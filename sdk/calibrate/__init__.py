"""Calibrated exports: weights rounded by what they are multiplied by on a text."""

from __future__ import annotations

from skipstone.calibrate.documents import Documents
from skipstone.calibrate.export import Calibration

__all__ = ["Calibration", "Documents"]
