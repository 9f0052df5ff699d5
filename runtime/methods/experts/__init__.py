"""Tokens from some of the experts into which FFNs are carved: a drafter, and its approximate twin."""

from __future__ import annotations

from skipstone.runtime.methods.experts.active import ACTIVE
from skipstone.runtime.methods.experts.levels import (
    EXPERTS,
    ActiveLevel,
    ActiveLevels,
    active_note,
    all_counts,
    least_counts,
    level_for,
    levels_of,
    share_of,
    sparse_part,
)

__all__ = [
    "ACTIVE",
    "EXPERTS",
    "ActiveLevel",
    "ActiveLevels",
    "active_note",
    "all_counts",
    "least_counts",
    "level_for",
    "levels_of",
    "share_of",
    "sparse_part",
]
