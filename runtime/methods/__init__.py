"""The words of `--decode`: one file for each, collected by the registry."""

from __future__ import annotations

from skipstone.runtime.methods.calibration import (
    ERROR_RATE,
    DialCalibration,
    DialFinding,
    calibrated_setting,
    dial_path,
    dial_setting,
    made_for,
    made_here,
    read_dial,
    risk_p_value,
    save_dial,
)
from skipstone.runtime.methods.choice import MethodChoice, weighed_methods
from skipstone.runtime.methods.in_order import InOrder
from skipstone.runtime.methods.method import (
    AGREEMENTS,
    ApproximateContext,
    DrafterContext,
    Method,
    Opened,
    require_agreement,
    require_number,
)
from skipstone.runtime.methods.plain import PLAIN
from skipstone.runtime.methods.registry import (
    approximate_methods,
    known_methods,
    method_named,
    open_drafter,
    registered_drafters,
)

__all__ = [
    "AGREEMENTS",
    "ERROR_RATE",
    "PLAIN",
    "ApproximateContext",
    "DialCalibration",
    "DialFinding",
    "DrafterContext",
    "InOrder",
    "Method",
    "MethodChoice",
    "Opened",
    "approximate_methods",
    "calibrated_setting",
    "dial_path",
    "dial_setting",
    "known_methods",
    "made_for",
    "made_here",
    "method_named",
    "open_drafter",
    "read_dial",
    "registered_drafters",
    "require_agreement",
    "require_number",
    "risk_p_value",
    "save_dial",
    "weighed_methods",
]
