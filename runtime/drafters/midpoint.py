"""When to stop drafting: after a guess less sure than halfway between those that stood and those that fell."""

from __future__ import annotations

from typing import Final

__all__ = ["MidpointStop"]

MEMORY: Final = 0.95
LONGEST: Final = 8


class MidpointStop:
    """Says after which guess a chain ends, by the mean confidences of guesses that stood and that fell lately.

    Both fade with each round. Guesses behind the first that fell say nothing: nobody knows whether they would stand.
    Source: DEL (Zarch et al., 2025), its dynamic draft exit.
    """

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.longest = longest
        self._asked: list[float] = []  # since the last update
        self._stood, self._fell = [0.0, 0.0], [0.0, 0.0]  # how many, and the sum of their confidences

    @property
    def threshold(self) -> float:
        """The confidence, 0..1, below which a guess is the last; 0 until a guess has stood and one has fallen."""
        if not self._stood[0] or not self._fell[0]:
            return 0.0
        return (self._stood[1] / self._stood[0] + self._fell[1] / self._fell[0]) / 2

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        self._asked.append(confidence)
        return confidence < self.threshold

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round, of whose guesses it was asked about the last; about none, it learns nothing."""
        asked, self._asked = self._asked[-num_drafted:], []
        if len(asked) < num_drafted:
            return
        stood, fell = asked[:num_accepted], asked[num_accepted : num_accepted + 1]
        for counts, seen in ((self._stood, stood), (self._fell, fell)):
            counts[0] = MEMORY * counts[0] + len(seen)
            counts[1] = MEMORY * counts[1] + sum(seen)
