"""When to stop drafting: after a guess that the drafter is unsure of, by a threshold that follows what is accepted."""

from __future__ import annotations

from typing import Final, Protocol

from skipstone.errors import ConfigError

__all__ = ["ConfidenceStop", "MidpointStop", "Stop"]

RATE_MEMORY = 0.5
THRESHOLD_MEMORY = 0.9


class ConfidenceStop:
    """Says after which guess a chain ends. Where too many guesses are rejected it asks for more confidence.

    Invariant: 0 <= `threshold` <= 1. `rate` is the share of guesses accepted lately.

    Source: Draft & Verify (Zhang et al., 2024), its threshold controller and defaults.
    """

    def __init__(
        self, *, threshold: float = 0.6, wanted_rate: float = 0.9, step: float = 0.01, longest: int = 8
    ) -> None:
        """`longest` is the most guesses of a chain; one that long and mostly accepted leaves the threshold as it is."""
        if not (0 <= threshold <= 1 and 0 <= wanted_rate <= 1 and 0 <= step <= 1):
            raise ConfigError(
                f"threshold, wanted_rate and step must lie between 0 and 1, got {threshold}, {wanted_rate} and {step}"
            )
        if longest < 1:
            raise ConfigError(f"longest must be at least 1, got {longest}")
        self.threshold, self.rate, self.longest = threshold, 0.0, longest
        self._wanted_rate, self._step = wanted_rate, step

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        return confidence < self.threshold

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round with at least one guess."""
        self.rate = RATE_MEMORY * self.rate + (1 - RATE_MEMORY) * num_accepted / num_drafted
        wanted = self.threshold
        if self.rate < self._wanted_rate:
            wanted += self._step
        elif num_drafted < self.longest:
            wanted -= self._step
        moved = THRESHOLD_MEMORY * self.threshold + (1 - THRESHOLD_MEMORY) * wanted
        self.threshold = min(max(moved, 0.0), 1.0)


class Stop(Protocol):
    """Says where a chain ends: after a guess of which it is unsure, at the latest after `longest`."""

    @property
    def longest(self) -> int:
        """The most guesses of a chain."""
        ...

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        ...

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round with at least one guess."""
        ...


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
