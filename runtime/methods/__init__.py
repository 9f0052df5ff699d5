"""The words of `--decode`: one file for each, collected by the registry."""

from __future__ import annotations

from skipstone.runtime.methods.calibration import (
    ERROR_RATE,
    Calibration,
    DialFinding,
    calibrated_setting,
    dial_note,
    dial_note_of,
    dial_setting,
    risk_p_value,
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
    "Calibration",
    "DialFinding",
    "DrafterContext",
    "InOrder",
    "Method",
    "MethodChoice",
    "Opened",
    "approximate_methods",
    "calibrated_setting",
    "dial_note",
    "dial_note_of",
    "dial_setting",
    "known_methods",
    "method_named",
    "open_drafter",
    "registered_drafters",
    "require_agreement",
    "require_number",
    "risk_p_value",
    "weighed_methods",
]
