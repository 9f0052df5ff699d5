"""Rules that say which guesses stand: one file for each, all with the same shape."""

from skipstone.runtime.verification.kseq import k_seq
from skipstone.runtime.verification.match import Accept, match
from skipstone.runtime.verification.rejection import reject
from skipstone.runtime.verification.rules import RULES, rule_named

__all__ = ["RULES", "Accept", "k_seq", "match", "reject", "rule_named"]
