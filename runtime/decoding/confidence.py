"""How far a drafter's confidence in its guesses can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.runtime.decoding.acceptance import Acceptance
from skipstone.runtime.engine import Draft

__all__ = ["Calibration", "level_of", "middle_of"]

NUM_LEVELS = 10


def level_of(confidence: float) -> int:
    """Return the decile, 0..9, of a confidence between 0 and 1."""
    return min(int(confidence * NUM_LEVELS), NUM_LEVELS - 1)


def middle_of(level: int) -> float:
    """Return the confidence in the middle of a decile."""
    return (level + 0.5) / NUM_LEVELS


class Calibration:
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
