"""What each stage costs here, alone and for the few rows of a draft; and what drafts without some of them promise."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from skipstone.runtime.engine import Feed, Model, Part, Workspace

__all__ = [
    "LONGEST",
    "TIMES_MEMORY",
    "StageTimes",
    "best_length",
    "best_speed_up",
    "speed_up",
    "stage_times",
    "usual_s",
]

TIMES_MEMORY = 0.95
LONGEST = 8  # guesses of a draft
ROWS = (1, 2, 4, 1 + LONGEST)
ROUNDS = 5
NUM_CACHED = 16


def speed_up(agreement: float, length: int, guess_cost: float, verify_cost: float) -> float:
    """Return how many tokens come in the time of a plain step, when each guess stands with the chance `agreement`.

    `guess_cost` is that of one of the `length` guesses, `verify_cost` that of the call that verifies them, as shares of
    a plain step. E / (d c_d + c_v) with E = 1 + a + ... + a**d.
    """
    expected = sum(agreement**num for num in range(length + 1))
    return expected / (length * guess_cost + verify_cost)


def best_speed_up(agreement: float, guess_cost: float, verify_costs: SequenceOf[float]) -> tuple[float, int]:
    """Return the best speed-up of drafts of 1 to len(`verify_costs`) guesses, and their length."""
    return max(
        (speed_up(agreement, length, guess_cost, cost), length) for length, cost in enumerate(verify_costs, start=1)
    )


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds by stage, and of the head, of calls of each of ROWS."""

    stage_s: SequenceOf[SequenceOf[float]]
    head_s: SequenceOf[float]

    @property
    def plain_s(self) -> float:
        """Seconds of a step of plain decoding: all stages and the head, one row."""
        return sum(one[0] for one in self.stage_s) + self.head_s[0]

    def guess_cost(self, kept: SequenceOf[int]) -> float:
        """Return the cost of a guess with these stages, as a share of a plain step."""
        return (sum(self.stage_s[number][0] for number in kept) + self.head_s[0]) / self.plain_s

    def verify_costs(self, num_first: int) -> list[float]:
        """Return the costs of calls that verify 1 to LONGEST guesses, of which the first stages saw all but the last.

        These run for one row only, and the others for all; shares of a plain step.
        """
        first_s = sum(one[0] for one in self.stage_s[:num_first])
        rest = np.sum([*self.stage_s[num_first:], self.head_s], axis=0)
        later_s = np.interp(range(2, 2 + LONGEST), ROWS, rest)
        return [(first_s + float(later)) / self.plain_s for later in later_s]


def stage_times(model: Model) -> StageTimes:
    """Measure a model of several stages: some 24 calls of each.

    The stages of a round run one after the other, as in decoding, so that none finds its weights in a small cache. The
    least of each counts, since other programs only make a call slower.
    """
    capacity = min(model.manifest.context_length, NUM_CACHED + ROWS[-1])
    workspace = model.new_workspace(context_length=capacity)
    parts = [Part((number,), head=False) for number in range(len(model.manifest.stages))] + [Part(())]
    seconds = np.array([_least_s(workspace, parts, rows, capacity - rows) for rows in ROWS]).T
    *stage_s, head_s = seconds.tolist()
    return StageTimes(stage_s, head_s)


def _least_s(workspace: Workspace, parts: SequenceOf[Part], num_rows: int, num_cached: int) -> list[float]:
    token_ids, length = [0] * num_rows, min(num_cached, NUM_CACHED)
    spent = np.full((1 + ROUNDS, len(parts)), np.inf)
    for turn in range(1 + ROUNDS):
        for place, part in enumerate(parts):
            feed = Feed.of(token_ids, rows=range(num_rows if part.head else 0), length=length)
            call = workspace.call(feed, part)
            start = perf_counter()
            call.run(feed)
            spent[turn, place] = perf_counter() - start
    return [float(least) for least in spent[1:].min(axis=0)]  # the first call of a shape takes longer


def usual_s(before: float, spent_s: float) -> float:
    """Return what something usually takes, given what was so far believed, 0 for nothing, and one more time.

    A shorter time is believed at once: the first call of a shape takes longer, and what others on the machine take is
    not its own. Longer ones count little by little.
    """
    return spent_s if not before or spent_s < before else before + (spent_s - before) * (1 - TIMES_MEMORY)


def best_length(chance: float, guess_s: float, verify_s: SequenceOf[float]) -> tuple[int, float]:
    """Return the draft length with the most expected tokens per second, and that rate.

    `chance` is that of a guess to stand, `guess_s` its price, `verify_s[d]` the call that verifies d of them. The
    expected tokens are g(0) = 1, g(d) = 1 + chance * g(d - 1).
    Source: DEL (Zarch et al., 2025), its objective in seconds in place of layers.
    """
    expected, best, rate = 1.0, 0, 1.0 / verify_s[0]
    for length in range(1, len(verify_s)):
        expected = 1.0 + chance * expected
        new = expected / (length * guess_s + verify_s[length])
        if new > rate:
            best, rate = length, new
    return best, rate
