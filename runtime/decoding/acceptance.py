"""How often guesses are right, lately, and so how far a drafter's confidence in them can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from skipstone.runtime.engine import Draft

__all__ = ["Acceptance", "ConfidenceScale", "Counts", "level_of", "middle_of"]

NUM_LEVELS = 10

Counts: TypeAlias = dict[int, list[float]]
"""By level: how many guesses were right, and how many were reached."""


class Acceptance:
    """The chance that a guess of each level is accepted, where it is reached; older rounds count less and less.

    Invariant: for each level, hits <= trials, both with the prior's guesses in them.
    """

    def __init__(
        self,
        prior: Callable[[int], float],
        *,
        prior_weight: float = 4.0,
        half_life: float = 50.0,
        counts: Counts | None = None,
    ) -> None:
        """`prior` gives the chance of a level that was never tried, worth `prior_weight` trials.

        After `half_life` trials of a level, what was seen before them counts half. What is learned goes into `counts`,
        which may be those of a text before.
        """
        self._prior, self._weight, self._keep = prior, prior_weight, 0.5 ** (1 / half_life)
        self._counts: Counts = {} if counts is None else counts

    def chance(self, level: int) -> float:
        """Return the estimated chance, 0..1."""
        counts = self._counts.get(level)
        return counts[0] / counts[1] if counts else self._prior(level)

    def update(self, level: int, *, accepted: bool) -> None:
        """Count one guess that was reached."""
        counts = self._counts.get(level)
        if counts is None:
            counts = self._counts[level] = [self._prior(level) * self._weight, self._weight]
        counts[0] = counts[0] * self._keep + accepted
        counts[1] = counts[1] * self._keep + 1


def level_of(confidence: float) -> int:
    """Return the decile, 0..9, of a confidence between 0 and 1."""
    return min(int(confidence * NUM_LEVELS), NUM_LEVELS - 1)


def middle_of(level: int) -> float:
    """Return the confidence in the middle of a decile."""
    return (level + 0.5) / NUM_LEVELS


class ConfidenceScale:
    """Turns confidence into the chance of being accepted where reached: within each decile by a factor, learned.

    It starts by taking the drafter at its word. Source: the training-free form of SpecDec++ (Huang et al., 2024).
    """

    def __init__(self) -> None:
        self._acceptance = Acceptance(middle_of)

    def chance(self, confidence: float) -> float:
        """Return the chance, 0..1, of a guess of this confidence."""
        level = level_of(confidence)
        return min(1.0, confidence * self._acceptance.chance(level) / middle_of(level))

    def learn(self, draft: Draft, token_ids: Sequence[int]) -> None:
        """Score every guess that the emitted tokens reach, fed or not; the levels of the draft are deciles."""
        row = 0
        for token_id in token_ids:
            for parent, guess, level in zip(draft.parents, draft.token_ids, draft.levels, strict=True):
                if parent == row:
                    self._acceptance.update(level, accepted=guess == token_id)
            child = draft.child(row, token_id)
            if child is None:
                return
            row = child
