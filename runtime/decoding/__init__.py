"""The loop that verifies drafts, and what every drafter is made of."""

from __future__ import annotations

from skipstone.runtime.decoding.acceptance import Acceptance
from skipstone.runtime.decoding.chain import DraftText, ModelDrafter
from skipstone.runtime.decoding.confidence import Calibration, level_of, middle_of
from skipstone.runtime.decoding.decode import Choose, Step, decode
from skipstone.runtime.decoding.drafter import Drafter, PlainDrafter, Round
from skipstone.runtime.decoding.guard import Guard
from skipstone.runtime.decoding.picks import Drawn, Likeliest, Picker, Picks, picker_for
from skipstone.runtime.decoding.stops import ConfidenceStop, MidpointStop

__all__ = [
    "Acceptance",
    "Calibration",
    "Choose",
    "ConfidenceStop",
    "DraftText",
    "Drafter",
    "Drawn",
    "Guard",
    "Likeliest",
    "MidpointStop",
    "ModelDrafter",
    "Picker",
    "Picks",
    "PlainDrafter",
    "Round",
    "Step",
    "decode",
    "level_of",
    "middle_of",
    "picker_for",
]
