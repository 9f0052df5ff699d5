"""What drafting may lose in one text against plain decoding, and what rows cost in it: both as measured there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from skipstone.runtime.costs import ROUGH_ROW, usual_s

__all__ = ["DOUBT", "ROUGH_DOUBT", "SHARE", "Budget", "RowCosts"]

# The share of a text's plain time that drafting may lose: 0.973 of plain speed, so that 0.97 is kept with what nobody
# measures.
SHARE = 0.028
# This share of the next tokens that may come counts as made already, of so many at most; the text may end before.
AHEAD, MOST_AHEAD = 0.5, 96
# Rows of a number that was never fed may cost so many times what the curve says, beyond the first row.
DOUBT = 2.0
# Where nothing was measured they may cost as much as calls of their own.
ROUGH_DOUBT = 1 / ROUGH_ROW
LEAST_ROW = 0.02  # what a row that was never fed costs at least, in plain steps
# Plain calls that are timed before the first draft, and how many of the last ones tell what one takes.
NUM_FIRST, NUM_LAST = 4, 9
# How many plain steps of what drafting has gained it may lose again.
MOST_GAINS = 40.0
# The most that planning itself takes in a round, as a share of a plain step.
OWN = 0.02
# A call, or an asking, that takes so many times what it should was held up by others.
HELD_UP = 3.0


class RowCosts:
    """How much longer calls of more rows take than plain ones, in plain steps: as told by a curve, and as seen.

    It outlives the texts. What was seen of a number of rows counts; of others the curve is doubted, the more the more
    it was wrong in the middle of the numbers that were seen.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._factors: dict[int, float] = {}  # what was seen of whole calls, as a multiple of what was told

    def update(self, rows: int, extra: float, *, told: float) -> None:
        """Count a call of so many rows that took `extra` plain steps more than a plain one, where `told` were told."""
        self._seen[rows] = usual_s(self._seen.get(rows, 0.0), max(extra, 1e-6))
        self._factors[rows] = (1 + self._seen[rows]) / (1 + told)

    def seen(self, costs: Sequence[float]) -> list[float]:
        """Return told costs of 0, 1, 2 ... rows as calls have shown them; more rows never cost less."""
        factor = sorted(self._factors.values())[len(self._factors) // 2] if self._factors else 1.0
        seen = [0.0, costs[1]]
        for rows in range(2, len(costs)):
            cost = costs[1] * (1 + self._seen[rows]) if rows in self._seen else costs[rows] * factor
            seen.append(max(seen[-1], cost))
        return seen

    def worst(self, costs: Sequence[float], *, doubt: float = DOUBT) -> list[float]:
        """Return by rows what a call may take beyond a plain one, given the costs that are told of 0, 1, 2 ... rows.

        `doubt` is how many times more a row beyond the first may cost that nobody fed yet.
        """
        worst, least = [0.0] * len(costs), float("inf")
        factor = sorted(self._factors.values())[len(self._factors) // 2] if self._factors else 1.0
        for rows in range(len(costs) - 1, 1, -1):
            told = max(costs[rows] / costs[1] - 1, LEAST_ROW * (rows - 1))
            if rows in self._seen:
                worst[rows] = least = min(least, self._seen[rows])
            else:
                worst[rows] = min(least, max(told * doubt, (1 + told) * factor - 1))
        return worst


class Budget:
    """What drafting may still lose in one text. Times are seconds, those of plain decoding as measured in this text.

    Invariant: `lost_s`, which is what the text took longer than plain decoding, is at most `share` of what plain
    decoding takes for the tokens made and half of the next that may come. It is kept by asking before: whoever wants to
    spend something spends `left_s` at most, in the worst case.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._plain = deque[float](maxlen=NUM_LAST)
        self._num_made = 0
        self._reading_s = 0.0  # what reading the prompt may take, which plain decoding reads too
        self.plain_s = self.lost_s = 0.0

    def start(self, prompt_s: float) -> None:
        """Count what the model took to read the prompt; drafters may take a share of it to read it as well."""
        self._reading_s = self._share * prompt_s

    def left_s(self, remaining: int, *, whole: bool = False) -> float:
        """Return what may be lost next, where at most `remaining` tokens come after the next one.

        `whole`: as if all of them were made.
        """
        if len(self._plain) < NUM_FIRST:
            return 0.0
        num_plain = self._num_made + 1 + (remaining if whole else AHEAD * min(remaining, MOST_AHEAD))
        return self._share * num_plain * self.plain_s - self.lost_s

    def rounds_until(self, needed_s: float, left_s: float) -> int:
        """Return after how many plain rounds so much is left, where `left_s` is now."""
        return int((needed_s - left_s) / (self._share * self.plain_s)) if self.plain_s else 0

    @property
    def reading_s(self) -> float:
        """What drafters may take to read the text before their first guess, beside `left_s`."""
        return self._reading_s

    def plain(self, call_s: float, *, asked_s: float, read_s: float) -> None:
        """Count a round without a draft: its call, and what asking and reading took beside it."""
        self._plain.append(call_s)
        most_s = HELD_UP * sorted(self._plain)[(len(self._plain) - 1) // 2]
        self.plain_s = sum(min(last_s, most_s) for last_s in self._plain) / len(self._plain)
        self._num_made += 1
        self._spend(asked_s, read_s)

    def drafted(self, call_s: float, num_tokens: int, *, asked_s: float, read_s: float, expected: float) -> None:
        """Count a round that gave `num_tokens`; its call was expected to take so many plain calls."""
        self._num_made += num_tokens
        self._spend(asked_s, read_s)
        self.lost_s += min(call_s, HELD_UP * expected * self.plain_s) - num_tokens * self.plain_s
        self.lost_s = max(self.lost_s, -MOST_GAINS * self.plain_s)

    def usual(self, spent_s: float, *, expected_s: float) -> float:
        """Return what asking took without what the system took for others meanwhile, where `expected_s` is usual."""
        return min(spent_s, (OWN + (expected_s > 0)) * self.plain_s + HELD_UP * expected_s)

    def _spend(self, asked_s: float, read_s: float) -> None:
        free_s = min(self._reading_s, read_s)
        self._reading_s -= free_s
        self.lost_s += asked_s + read_s - free_s
