"""The words of `--decode`: one file for each, collected by the registry."""

from __future__ import annotations

from skipstone.runtime.methods.calibration import (
    ERROR_RATE,
    DialCalibration,
    DialFinding,
    calibrated_setting,
    dial_note,
    dial_note_of,
    risk_p_value,
)
from skipstone.runtime.methods.in_order import Cascade
from skipstone.runtime.methods.method import (
    AGREEMENTS,
    ApproximateContext,
    ApproximateMethod,
    DrafterContext,
    Opened,
    require_agreement,
    require_number,
)
from skipstone.runtime.methods.registry import APPROXIMATE, Method, open_drafter, planned_names, registered_drafters

__all__ = [
    "AGREEMENTS",
    "APPROXIMATE",
    "ERROR_RATE",
    "ApproximateContext",
    "ApproximateMethod",
    "Cascade",
    "DialCalibration",
    "DialFinding",
    "DrafterContext",
    "Method",
    "Opened",
    "calibrated_setting",
    "dial_note",
    "dial_note_of",
    "open_drafter",
    "planned_names",
    "registered_drafters",
    "require_agreement",
    "require_number",
    "risk_p_value",
]
