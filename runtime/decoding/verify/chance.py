"""Judging drafts by chance: the coins of one round, and the frame of the rules that flip them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.drafter import Accept
from skipstone.runtime.decoding.verify.match import match
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler, uniform

__all__ = ["Coins", "Judge", "Law", "TargetLaw", "by_chance", "excess", "law_of_guesses"]

Law = NDArray[np.float64]
"""A distribution [V]."""

TargetLaw = Callable[[int, Sequence[int]], Law]
"""(row, the guesses that lead to it) -> what the model would draw from there, after every processor."""


class Coins:
    """All that one round leaves to chance: each question takes the next of its numbers, `uniform` at indices 0, 1, ...

    They are keyed by the length of the text at the start of the round, which no other round has. By the position of
    the guess would be wrong: a coin that was flipped in vain would be flipped again in the next round.
    """

    def __init__(self, seed: int, position: int) -> None:
        self._numbers = (uniform(seed, position, index) for index in count())

    def flip(self, chance: float) -> bool:
        """Return True with this chance: never for 0, always for 1 or more."""
        return next(self._numbers) < chance

    def draw(self, law: Law) -> int:
        """Return a token, never one of probability 0."""
        ids = np.flatnonzero(law)
        totals = np.cumsum(law[ids])
        index = int(np.searchsorted(totals, next(self._numbers) * totals[-1], side="right"))
        # The product may round up to the whole total.
        return int(ids[min(index, len(ids) - 1)])


Judge = Callable[[Draft, TargetLaw, Coins], list[int]]
"""Says which guesses of a draft with laws stand, and adds one token; all its chance is in the coins."""


def by_chance(sampler: Sampler, history: Sequence[int], judge: Judge) -> Accept:
    """Return the rule that has drafts with laws judged by `judge`, and others verified as `match` does.

    `history` is the live list of the sequence's tokens.
    """
    by_match = match(sampler, history)

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        if not len(draft) or not draft.laws:
            return by_match(draft, logits)

        def target(row: int, path: Sequence[int]) -> Law:
            return sampler.law(logits[row], [*history, *path])

        return judge(draft, target, Coins(sampler.seed, len(history)))

    return accept


def law_of_guesses(draft: Draft, row: int, vocab_size: int) -> Law:
    """Return the law that the guesses after `row` were drawn from. Raises: ConfigError when the draft has no such."""
    law = draft.laws[row] if row < len(draft.laws) else None
    if law is None or law.shape != (vocab_size,):
        found = "no law" if law is None else f"a law of shape {law.shape}"
        raise ConfigError(
            f"drafter {draft.source} gives {found} for the guesses after row {row}, where one over {vocab_size} tokens "
            "was wanted; choose another drafter or the rule match"
        )
    return law


def excess(weights: Law, taken: Law) -> Law:
    """Return the distribution of what `weights` have above `taken`; of the weights when rounding leaves nothing."""
    left = np.maximum(weights - taken, 0.0)
    total = float(left.sum())
    return left / total if total > 0 else weights / weights.sum()
