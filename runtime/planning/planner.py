"""The plan of each round: the draft with the most expected tokens per millisecond, or none where none pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from skipstone.devices import CostCurve
from skipstone.runtime.draft import Draft
from skipstone.runtime.drafters.acceptance import Acceptance
from skipstone.runtime.drafters.drafter import Drafter, Round
from skipstone.runtime.drafters.guard import Guard
from skipstone.runtime.planning.knowledge import LOOP_MS, Knowledge, Record
from skipstone.runtime.planning.measure import MAX_ROWS

__all__ = ["Planner", "best_cut"]

MIN_GAIN = 1.03
# Costs change slowly with the context; they are looked up again after so many tokens.
CONTEXT_STEP = 32
FIRST_TRY = 2


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What one drafter proposed this round, the part of it that pays, and what asking took."""

    guard: Guard
    record: Record
    draft: Draft
    cut: Draft
    spent_ms: float


class Planner(Drafter):
    """Asks the drafters that pay, cuts each proposal where another row no longer pays, and takes the best or none.

    Chances are learned by level, also from proposals that were not taken: the text comes out the same, so it shows what
    any drafter would have got right. So learning costs the asking only, and no model call.

    Source: the stopping rule of drafting_and_sampling 0.5; the best tree as in Sequoia (Chen et al., 2024).
    """

    name = "auto"

    def __init__(
        self, guards: Sequence[Guard], curve: CostCurve, *, knowledge: Knowledge | None = None, exact: bool = False
    ) -> None:
        """`guards` come in order of price; `knowledge` outlives the text. `exact`: rows are fed in pairs."""
        self._knowledge = knowledge or Knowledge()
        self._sources = [(guard, self._knowledge.record(guard)) for guard in guards]
        self._curve, self._exact = curve, exact
        self._expected: list[float] = []
        self._costs: list[float] = []
        self._costs_until = 0
        self._proposals: list[_Proposal] = []
        self._taken = Draft.empty()
        self._is_first_round = True

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        costs = self._costs_at(len(history))
        limit, self._proposals = min(limit, MAX_ROWS - 1), []
        plain_rate = MIN_GAIN / (costs[1] + LOOP_MS)
        best, best_rate = Draft.empty(), plain_rate
        for guard, record in self._sources:
            if not record.is_due(costs, best_rate):
                continue
            start = perf_counter()
            floor = best_rate * (costs[2] - costs[1] + record.guess_ms) / 2
            draft = guard.propose(limit if record.num_asked else FIRST_TRY, min_chance=max(floor, 0.01))
            spent_ms = (perf_counter() - start) * 1e3
            cut, rate = best_cut(draft, record.acceptance, costs, plain_rate)
            self._proposals.append(_Proposal(guard, record, draft, cut, spent_ms))
            if rate > best_rate:
                best, best_rate = cut, rate
        self._taken = best
        return best

    def _costs_at(self, context: int) -> list[float]:
        """Return the milliseconds of a call of so many rows, [0] being free."""
        if context >= self._costs_until or not self._costs:
            costs = self._curve.costs(context, max_rows=MAX_ROWS)
            if self._exact:
                costs = [costs[min(rows + rows % 2, MAX_ROWS)] for rows in range(MAX_ROWS + 1)]
            self._expected, self._costs_until = costs, context + CONTEXT_STEP
            self._costs = self._knowledge.times.correct(costs)
        return self._costs

    def observe(self, seen: Round) -> None:
        rows = 1 + len(seen.draft)
        if self._expected and seen.model_ms:
            self._knowledge.times.update(rows, measured_ms=seen.model_ms, expected_ms=self._expected[rows])
        worth = [self._worth_ms(proposal.cut, seen.token_ids) for proposal in self._proposals]
        for index, proposal in enumerate(self._proposals):
            proposal.record.learn(proposal.draft, seen.token_ids)
            start = perf_counter()
            proposal.guard.observe(seen)
            spent_ms = proposal.spent_ms + (perf_counter() - start) * 1e3
            saved_ms = 0.0
            if proposal.cut is self._taken:  # what the next best would have saved is not its merit
                saved_ms = worth[index] - max([0.0, *worth[:index], *worth[index + 1 :]])
            if not self._is_first_round:
                proposal.record.settle(spent_ms, saved_ms, num_guesses=len(proposal.draft))
        self._is_first_round = self._is_first_round and not self._proposals
        self._proposals = []

    def _worth_ms(self, draft: Draft, token_ids: Sequence[int]) -> float:
        """Return what a draft saves against plain decoding, as far as the tokens that came tell."""
        if not len(draft):
            return 0.0
        num_tokens = min(len(draft.path(token_ids)), len(token_ids))
        return num_tokens * self._costs[1] - self._costs[1 + len(draft)]

    def finish(self, history: Sequence[int]) -> None:
        for guard, _ in self._sources:
            guard.finish()


def best_cut(draft: Draft, acceptance: Acceptance, costs: Sequence[float], rate: float) -> tuple[Draft, float]:
    """Return the part of the draft with the most expected tokens per millisecond, if above `rate`, and its rate.

    The likeliest rows are taken first; a row is never likelier than its parent, so every part is a draft.
    """
    chances = [1.0]
    for parent, level in zip(draft.parents, draft.levels or (0,) * len(draft), strict=True):
        chances.append(chances[parent] * acceptance.chance(level))
    order = list(range(1, len(chances)))
    if not draft.is_chain:
        order.sort(key=lambda row: -chances[row])  # equal ones stay in order
    expected, num_rows = 1.0, 0
    for count, row in enumerate(order, start=1):
        expected += chances[row]
        cost = costs[count + 1] + LOOP_MS
        if expected > rate * cost:
            rate, num_rows = expected / cost, count
    return draft.keep(sorted(order[:num_rows])), rate
