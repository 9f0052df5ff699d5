"""When to stop drafting: after a guess that the drafter is unsure of, by a threshold that follows what is accepted."""

from __future__ import annotations

from skipstone.errors import ConfigError

__all__ = ["ConfidenceStop"]

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
