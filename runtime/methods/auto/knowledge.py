"""What planning learns while text is made: what each drafter is worth, and what calls really take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from skipstone.runtime.costs import MAX_ROWS
from skipstone.runtime.decoding import Acceptance, Counts
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.auto.budget import RowCosts

__all__ = ["EXPLORATION", "EXPLORATION_OF_GAINS", "LOOP_S", "CallTimes", "Knowledge", "Record"]

# A resting drafter is tried again now and then. All such tries together may take this share of plain decoding's time:
# the second in a text in which drafting has gained so far.
EXPLORATION, EXPLORATION_OF_GAINS = 0.009, 0.06
# Seconds of a round outside of the model and the drafters: the loop, and the choice of tokens.
LOOP_S = 3e-5
MEMORY = 0.95
# A drafter whose guesses cost more than this share of a plain step is asked only when it promises to pay.
DEAR = 0.1


@dataclass(slots=True)
class Record:
    """What is known of one drafter, over all texts of a model; times in seconds, means over recent rounds.

    `balance_s` is what asking saved, less what it took. A drafter with a negative balance rests. It is asked only while
    `credit_s` lasts: every round adds a little to it, and each try takes from it what the try cost, rows fed in vain
    included. `price_s` is what asking takes, `guess_s` what one guess takes, `mean_chance` how often a guess that is
    reached is accepted; `counts` tells that level by level. `read_s` is what a token of the text takes to read before
    the first guess.

    It outlives the texts, so it holds numbers only, and nothing of a text.
    """

    counts: Counts = field(default_factory=dict)
    balance_s: float = 0.0
    price_s: float = 0.0
    guess_s: float = 0.0
    mean_chance: float = 0.6
    read_s: float = 0.0
    credit_s: float = 0.0
    num_asked: int = 0
    is_try: bool = False

    def pays(self, costs: Sequence[float], rate: float, *, reading_s: float, remaining: int) -> bool:
        """Whether asking earns its price, with `rate` tokens per second to beat and `remaining` tokens to come.

        What is dear must promise to beat the rate, by enough to make up for `reading_s`, which it takes to begin.
        """
        plain_s = costs[1]
        if self.num_asked == 0:
            if reading_s:
                return False
            self.balance_s = 0.5 * plain_s  # the benefit of the doubt, for some dozens of rounds
        if self.balance_s < 0 or (self.guess_s <= DEAR * plain_s and not reading_s):
            return self.balance_s >= 0
        return remaining * (1 / rate - 1 / self.promise(costs)) > reading_s

    def promise(self, costs: Sequence[float]) -> float:
        """Return the tokens per second to expect of a chain of the best length, from means alone."""
        best, chance, expected = 0.0, 1.0, 1.0
        for rows in range(2, len(costs)):
            chance *= self.mean_chance
            expected += chance
            best = max(best, expected / (costs[rows] + LOOP_S + (rows - 1) * self.guess_s))
        return best

    def usual(self, spent_s: float, *, num_guesses: int, plain_s: float) -> float:
        """Return the seconds of one asking without those that the system took for others meanwhile.

        Whatever is more than a plain step, and three times what such guesses cost before, cannot be the drafter's.
        """
        return min(spent_s, max(plain_s, 3 * self.guess_s * (1 + num_guesses)))

    def read(self, spent_s: float, *, num_tokens: int) -> None:
        """Count the first asking in a text, in which so many tokens are read."""
        self.num_asked += 1
        self.read_s = spent_s / num_tokens

    def settle(self, spent_s: float, saved_s: float, *, num_guesses: int) -> None:
        """Count one round in which the drafter was asked, other than the first of a text."""
        self.num_asked += 1
        self.price_s += (spent_s - self.price_s) * (1 - MEMORY if self.price_s else 1)
        if self.is_try:
            self.credit_s -= spent_s - saved_s
        if num_guesses:
            self.guess_s += (spent_s / num_guesses - self.guess_s) * (1 - MEMORY if self.guess_s else 1)
        self.balance_s = MEMORY * self.balance_s + (1 - MEMORY) * (saved_s - spent_s)

    def learn(self, draft: Draft, token_ids: Sequence[int], acceptance: Acceptance) -> None:
        """Score a proposal against the tokens that came, whether it was fed or not; `acceptance` has our counts."""
        levels = draft.levels or (0,) * len(draft)
        follows = dict(enumerate(token_ids) if draft.is_chain else zip(draft.path(token_ids), token_ids, strict=False))
        for parent, guess, level in zip(draft.parents, draft.token_ids, levels, strict=True):
            token_id = follows.get(parent)
            if token_id is not None:
                acceptance.update(level, accepted=guess == token_id)
                self.mean_chance += ((guess == token_id) - self.mean_chance) * (1 - MEMORY)
                if guess != token_id and draft.is_chain:
                    return


class CallTimes:
    """How much longer or shorter calls take than the curve says: all of them, and those of so many rows beyond that.

    A curve measured in a busy moment so mends itself, and a machine that slows down does not make rows look cheap that
    were not fed of late. The first plain calls set the first factor, by their median, where the curve knows what they
    took: else they set their own. The first two calls of a number
    of rows set the second: the shorter one is believed. From then on each call moves both factors by a small step
    towards what it took: so they follow the median, and one slow call counts no more than any.
    """

    STEP = 1.02
    MOST_SCALE, MOST = 4.0, 8.0
    NUM_PLAIN, NUM_TRIED = 4, 2

    def __init__(self) -> None:
        self._scale = 1.0
        self._factors = [1.0] * (MAX_ROWS + 1)
        self._first = [list[float]() for _ in range(MAX_ROWS + 1)]  # as multiples of what was expected

    def is_known(self, rows: int) -> bool:
        """Whether calls of so many rows have told what they take."""
        return len(self._first[rows]) >= (self.NUM_TRIED if rows > 1 else self.NUM_PLAIN)

    def update(self, rows: int, *, measured_s: float, expected_s: float, tells_scale: bool = True) -> None:
        """Count one call that was expected to take `expected_s` before any correction.

        `tells_scale`: plain calls tell of all.
        """
        if not self.is_known(rows):
            self._first[rows].append(measured_s / expected_s)
            if rows > 1 or self.is_known(rows):
                self._believe(rows, is_of_all=rows == 1 and tells_scale)
                return
        ratio = measured_s / (expected_s * self._scale * self._factors[rows])
        if 1 / self.STEP <= ratio <= self.STEP:
            return
        step = self.STEP if ratio > 1 else 1 / self.STEP
        self._scale = min(max(self._scale * step, 1 / self.MOST_SCALE), self.MOST_SCALE)
        self._factors[rows] = min(max(self._factors[rows] * step, 1 / self.MOST), self.MOST)

    def _believe(self, rows: int, *, is_of_all: bool) -> None:
        """Set a factor by the first calls: of two the shorter one, of plain ones the median."""
        first = sorted(self._first[rows])
        middle = first[0] if rows > 1 else first[(len(first) - 1) // 2]
        if is_of_all:
            self._scale, self._factors[rows] = min(max(middle, 1 / self.MOST_SCALE), self.MOST_SCALE), 1.0
        else:
            self._factors[rows] = min(max(middle / self._scale, 1 / self.MOST), self.MOST)

    def correct(self, costs: Sequence[float], hopeful: Sequence[float] | None = None) -> list[float]:
        """Return the costs of 0, 1, 2 ... rows as recent calls suggest; more rows never cost less.

        Numbers of rows that no call has told about take what is `hopeful`, where that is less, and no more than larger
        numbers that are known.
        """
        corrected = [cost * self._scale * factor for cost, factor in zip(costs, self._factors, strict=True)]
        most = float("inf")
        for rows in range(len(costs) - 1, 0, -1):
            if self.is_known(rows):
                most = min(most, corrected[rows])
            elif rows > 1:
                lower = corrected[rows] if hopeful is None else hopeful[rows] * self._scale
                corrected[rows] = min(corrected[rows], lower, most)
        return [*accumulate(corrected, max)]


class Knowledge:
    """What planning has learned about a model's drafters and calls; it outlives the texts."""

    def __init__(self) -> None:
        self.times, self.rows = CallTimes(), RowCosts()
        self._records: dict[str, Record] = {}

    def record(self, name: str) -> Record:
        """Return the record of the drafter called `name`."""
        return self._records.setdefault(name, Record())
