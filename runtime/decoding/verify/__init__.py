"""Rules that say which guesses stand: one file for each, all with the same shape."""

from __future__ import annotations

from skipstone.runtime.decoding.verify.chance import Coins, Judge, Law, TargetLaw, excess
from skipstone.runtime.decoding.verify.kseq import judge_draws, k_seq, selection
from skipstone.runtime.decoding.verify.match import match
from skipstone.runtime.decoding.verify.rejection import judge_chain, judge_drawn, judge_tree, reject
from skipstone.runtime.decoding.verify.rules import RULES, rule_named

__all__ = [
    "RULES",
    "Coins",
    "Judge",
    "Law",
    "TargetLaw",
    "excess",
    "judge_chain",
    "judge_drawn",
    "judge_draws",
    "judge_tree",
    "k_seq",
    "match",
    "reject",
    "rule_named",
    "selection",
]
