"""Texts decoded by a planner in simulated time: drafters and model calls move a clock by their prices.

Every right token is 0, every wrong guess 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skipstone.runtime.costs import MAX_ROWS, CostCurve
from skipstone.runtime.decoding import Drafter, Guard, Round
from skipstone.runtime.engine import Draft, RowRule
from skipstone.runtime.methods.auto import LOOP_S, Knowledge, Planner

NO_LOGITS = np.zeros((0, 0), np.float32)
IsRight = Callable[[int], bool]


@dataclass
class Clock:
    now_ms: float = 0.0

    def __call__(self) -> float:
        return self.now_ms / 1e3


@dataclass
class Text:
    """What a guard needs of a sequence: tokens that grow without end and without a model."""

    token_ids: list[int] = field(default_factory=lambda: [0])
    draft_room: int = 10**9

    def require_feedable(self, draft: Draft) -> None:
        assert all(token_id in (0, 1) for token_id in draft.token_ids)


@dataclass
class Scripted(Drafter):
    """Guesses a chain; `is_right` tells of which positions of the text it knows the token."""

    clock: Clock
    is_right: IsRight
    name: str = "scripted"
    price_ms: float = 0.0
    guess_ms: float = 0.0
    length: int = 4
    chance: float = 0.4
    level: int = 0
    asked_at: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    spent_ms: float = 0.0

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.asked_at.append(len(history))
        self.limits.append(limit)
        length = min(limit, self.length)
        price_ms = self.price_ms + self.guess_ms * length
        self.spent_ms += price_ms
        self.clock.now_ms += price_ms
        guesses = [0 if self.knows(history, depth) else 1 for depth in range(length)]
        return Draft.chain(guesses, source=self.name, levels=[self.level] * length)

    def knows(self, history: Sequence[int], depth: int) -> bool:
        return self.is_right(len(history) + depth)

    def prior(self, level: int) -> float:
        return self.chance


def always(position: int) -> bool:
    return True


def never(position: int) -> bool:
    return False


def line(row_ms: float, *, plain_ms: float = 1.0) -> CostCurve:
    """Return a curve on which each row beyond the first costs the same."""
    return CostCurve(rows=(1, 2), contexts=(0,), seconds=((plain_ms / 1e3, (plain_ms + row_ms) / 1e3),))


@dataclass
class Simulation:
    """Decoding with a planner, and what it took."""

    planner: Planner
    text: Text
    clock: Clock
    curve: CostCurve
    real: CostCurve
    exact: bool = False
    drafts: list[Draft] = field(default_factory=list)

    def run(self, num_tokens: int) -> float:
        """Make so many more tokens; return the time it took, as a multiple of what plain decoding takes."""
        start_s, end = self.clock(), len(self.text.token_ids) + num_tokens
        costs = self.real.costs(0, max_rows=MAX_ROWS + 1)
        while len(self.text.token_ids) < end:
            left = end - len(self.text.token_ids)
            draft = self.planner.propose(self.text.token_ids, limit=left - 1) if left > 1 else Draft.empty()
            rows = 1 + len(draft)
            call_s = costs[rows + rows % 2 if self.exact else rows]
            self.clock.now_ms += 1e3 * (call_s + LOOP_S)
            path = draft.path([0] * left)
            accepted = [0] * min(len(path), left)
            self.text.token_ids += accepted
            self.planner.observe(Round(draft, 0, accepted, path, NO_LOGITS, model_s=call_s))
            self.drafts.append(draft)
        plain_s = num_tokens * (costs[2 if self.exact else 1] + LOOP_S)
        return (self.clock() - start_s) / plain_s

    def wait(self, num_tokens: int = 2000) -> None:
        """Make tokens without asking anybody, so that the budget of the text grows."""
        for _ in range(num_tokens):
            self.planner.propose(self.text.token_ids, limit=0)
            call_s = self.real.costs(0, max_rows=MAX_ROWS)[2 if self.exact else 1]
            self.clock.now_ms += 1e3 * (call_s + LOOP_S)
            self.planner.observe(Round(Draft.empty(), 0, [0], [0], NO_LOGITS, model_s=call_s))

    @property
    def num_drafted(self) -> int:
        return sum(map(len, self.drafts))


def simulation(
    make: Callable[[Clock], Sequence[Drafter]],
    *,
    row_ms: float = 0.1,
    curve: CostCurve | None = None,
    real: CostCurve | None = None,
    knowledge: Knowledge | None = None,
    exact: bool = False,
    is_rough: bool = False,
    clock: Clock | None = None,
) -> Simulation:
    """Return a simulation; `curve` is what the planner is told, `real` what calls take.

    `is_rough`: it is told nothing.
    """
    clock, text = clock or Clock(), Text()
    guards = [Guard(drafter, text) for drafter in make(clock)]  # type: ignore[arg-type]
    told = curve or line(row_ms)
    planner = Planner(
        guards, None if is_rough else told, knowledge=knowledge, rule=RowRule(2, 2) if exact else RowRule(), clock=clock
    )
    return Simulation(planner, text, clock, told, real or told, exact)


def with_one(is_right: IsRight, *, row_ms: float = 0.1, **options: Any) -> tuple[Simulation, Scripted]:
    clock = Clock()
    drafter = Scripted(clock, is_right, **options)
    return simulation(lambda _: [drafter], row_ms=row_ms, clock=clock), drafter
