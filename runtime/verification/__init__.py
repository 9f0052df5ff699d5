"""Rules that say which guesses stand: one file for each, all with the same shape."""

from skipstone.runtime.verification.match import Accept, match

__all__ = ["Accept", "match"]
