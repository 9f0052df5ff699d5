"""Drafters that guess from the text alone."""

from __future__ import annotations

from skipstone.runtime.methods.from_text.jacobi import CHANGED, FRESH, KINDS, STABLE, JacobiDrafter
from skipstone.runtime.methods.from_text.lookahead import WINDOW_LEVEL, LookaheadDrafter, NgramPool
from skipstone.runtime.methods.from_text.ngram import NgramDrafter
from skipstone.runtime.methods.from_text.recycle import (
    Node,
    RecycleDrafter,
    RecyclingTable,
    open_recycle,
    top_ids,
    tree_template,
)
from skipstone.runtime.methods.from_text.suffix import MATCHES, NUM_VOTES, OTHER_TEXTS, SuffixDrafter, prior
from skipstone.runtime.text.suffix_index import (
    BOUNDARY,
    LONGEST_MATCH,
    Continuation,
    SuffixIndex,
    TextIndex,
    overlapping,
)
from skipstone.runtime.text.suffix_memory import HEADER_BYTES, SuffixMemory

__all__ = [
    "BOUNDARY",
    "CHANGED",
    "FRESH",
    "HEADER_BYTES",
    "KINDS",
    "LONGEST_MATCH",
    "MATCHES",
    "NUM_VOTES",
    "OTHER_TEXTS",
    "STABLE",
    "WINDOW_LEVEL",
    "Continuation",
    "JacobiDrafter",
    "LookaheadDrafter",
    "NgramDrafter",
    "NgramPool",
    "Node",
    "RecycleDrafter",
    "RecyclingTable",
    "SuffixDrafter",
    "SuffixIndex",
    "SuffixMemory",
    "TextIndex",
    "open_recycle",
    "overlapping",
    "prior",
    "top_ids",
    "tree_template",
]
