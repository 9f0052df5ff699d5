"""The loop that verifies drafts, and what every drafter is made of."""

from __future__ import annotations

from skipstone.runtime.decoding.acceptance import Acceptance, ConfidenceScale, Counts, level_of, middle_of
from skipstone.runtime.decoding.chain import ConfidenceStop, DraftText, ModelDrafter
from skipstone.runtime.decoding.decode import Look, decode, decode_singly, step_of_one
from skipstone.runtime.decoding.drafter import Accept, Choose, Drafter, Guard, PlainDrafter, Round, Step

__all__ = [
    "Accept",
    "Acceptance",
    "Choose",
    "ConfidenceScale",
    "ConfidenceStop",
    "Counts",
    "DraftText",
    "Drafter",
    "Guard",
    "Look",
    "ModelDrafter",
    "PlainDrafter",
    "Round",
    "Step",
    "decode",
    "decode_singly",
    "level_of",
    "middle_of",
    "step_of_one",
]
