"""What a token takes with more or fewer active experts, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from skipstone.runtime.engine import Feed, Model, Part
from skipstone.runtime.methods.experts import ActiveLevel, least_counts, level_for, share_of, sparse_part

__all__ = ["StepLine", "step_times_ms"]

ROUNDS: Final = 15
NUM_CACHED: Final = 16
HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class StepLine:
    """Milliseconds of a step by the share of active experts: a line through two that were measured."""

    low: tuple[float, float]
    high: tuple[float, float]

    @classmethod
    def measure(cls, model: Model) -> StepLine:
        """Time steps with the fewest experts, and with half of them or more."""
        counts = least_counts(model.manifest)
        few = ActiveLevel(share=share_of(counts, model.manifest), counts=counts)
        more = level_for(model, max(HALF, (1 + few.share) / 2))
        seconds = step_times_ms(model, [sparse_part(few), sparse_part(more)])
        return cls((few.share, seconds[0]), (more.share, seconds[1]))

    @property
    def _slope(self) -> float:
        return max((self.high[1] - self.low[1]) / (self.high[0] - self.low[0]), 1e-6)

    def ms(self, share: float) -> float:
        """Return the milliseconds of a step at a share."""
        return self.low[1] + (share - self.low[0]) * self._slope

    def share(self, ms: float) -> float:
        """Return the share at which a step takes so long."""
        return self.low[0] + (ms - self.low[1]) / self._slope


def step_times_ms(model: Model, parts: list[Part]) -> list[float]:
    """Return the least milliseconds of a step of each part, a row behind some cached tokens, timed in turn."""
    capacity = min(model.manifest.context_length, 2 * NUM_CACHED)
    workspace, feed = model.new_workspace(context_length=capacity), Feed.of([0], rows=range(1), length=capacity // 2)
    feed.alone = True
    spent = np.full((ROUNDS, len(parts)), np.inf)
    for turn in range(ROUNDS):
        for place, part in enumerate(parts):
            call = workspace.call(feed, part)
            call.run(feed)
            start = perf_counter()
            call.run(feed)
            spent[turn, place] = perf_counter() - start
    return [1e3 * float(least) for least in spent.min(axis=0)]
