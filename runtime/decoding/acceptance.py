"""How often guesses are right, lately."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Acceptance"]


class Acceptance:
    """The chance that a guess of each level is accepted, where it is reached; older rounds count less and less.

    Invariant: for each level, hits <= trials, both with the prior's guesses in them.
    """

    def __init__(self, prior: Callable[[int], float], *, prior_weight: float = 4.0, half_life: float = 50.0) -> None:
        """`prior` gives the chance of a level that was never tried, worth `prior_weight` trials.

        After `half_life` trials of a level, what was seen before them counts half.
        """
        self._prior, self._weight, self._keep = prior, prior_weight, 0.5 ** (1 / half_life)
        self._counts: dict[int, list[float]] = {}

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
