"""Drafters that guess from the text alone."""

from __future__ import annotations

from skipstone.runtime.methods.from_text.jacobi import CHANGED, FRESH, JacobiDrafter, KINDS, STABLE
from skipstone.runtime.methods.from_text.lookahead import LookaheadDrafter, NgramPool, WINDOW_LEVEL
from skipstone.runtime.methods.from_text.ngram import NgramDrafter
from skipstone.runtime.methods.from_text.recycle import Node, RecycleDrafter, RecyclingTable, open_recycle, top_ids, tree_template
from skipstone.runtime.methods.from_text.suffix import MATCHES, NUM_VOTES, OTHER_TEXTS, SuffixDrafter, prior
from skipstone.runtime.text.suffix_index import BOUNDARY, Continuation, LONGEST_MATCH, SuffixIndex, TextIndex, overlapping
from skipstone.runtime.text.suffix_memory import HEADER_BYTES, SuffixMemory

__all__ = ['BOUNDARY', 'CHANGED', 'Continuation', 'FRESH', 'HEADER_BYTES', 'JacobiDrafter', 'KINDS', 'LONGEST_MATCH', 'LookaheadDrafter', 'MATCHES', 'NUM_VOTES', 'NgramDrafter', 'NgramPool', 'Node', 'OTHER_TEXTS', 'RecycleDrafter', 'RecyclingTable', 'STABLE', 'SuffixDrafter', 'SuffixIndex', 'SuffixMemory', 'TextIndex', 'WINDOW_LEVEL', 'open_recycle', 'overlapping', 'prior', 'top_ids', 'tree_template']
