"""The method `auto`: each round the draft with the most expected tokens per second, or none where none pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from skipstone.runtime.costs import MAX_ROWS, MIN_GAIN, CostCurve, known_curve, rough_curve
from skipstone.runtime.decoding import Acceptance, Drafter, Guard, Round
from skipstone.runtime.engine import ANY_ROWS, Draft, RowRule
from skipstone.runtime.methods.auto.budget import DOUBT, ROUGH_DOUBT, SHARE, Budget
from skipstone.runtime.methods.auto.knowledge import EXPLORATION, EXPLORATION_OF_GAINS, LOOP_S, Knowledge, Record
from skipstone.runtime.methods.method import DrafterContext, Method

__all__ = ["METHOD", "Planner", "best_cut"]

# Costs change slowly with the context; they are looked up again after so many tokens.
CONTEXT_STEP = 32
# A drafter that takes more than this share of a plain step to ask is asked when no cheaper one has a guess that pays.
NOT_CHEAP = 0.04
# What asking a drafter is thought to take that was never asked, as a share of a plain step.
UNKNOWN = 0.1
TINY_S = 1e-6
# Guesses of a draft whose call is bound before the text begins; longer ones are bound when they come.
MOST_PREPARED = 7
NOTHING = Draft.empty()


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A drafter of one text, what is known of it from this text and those before, and how often it is right."""

    guard: Guard
    record: Record
    acceptance: Acceptance

    @classmethod
    def of(cls, guard: Guard, knowledge: Knowledge) -> Source:
        record = knowledge.record(guard.name)
        return cls(guard, record, Acceptance(guard.prior, counts=record.counts))

    def learn(self, draft: Draft, token_ids: Sequence[int]) -> None:
        """Score a proposal against the tokens that came."""
        self.record.learn(draft, token_ids, self.acceptance)


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What one drafter proposed this round, the part of it that pays and how much, and what asking took."""

    source: Source
    draft: Draft
    cut: Draft
    gain_s: float
    spent_s: float


class Planner(Drafter):
    """Asks the drafters that pay, cuts each proposal where another row no longer pays, and takes the best or none.

    Chances are learned by level, also from proposals that were not taken: the text comes out the same, so it shows what
    any drafter would have got right. So learning costs the asking only, and no model call.

    Chances and prices are estimates. What bounds the loss whatever comes is the budget of the text: nobody is asked,
    and no row is fed, whose price in the worst case is not in it.

    Source: the stopping rule of drafting_and_sampling 0.5; the best tree as in Sequoia (Chen et al., 2024).
    """

    name = "auto"

    def __init__(
        self,
        guards: Sequence[Guard],
        curve: CostCurve | None,
        *,
        knowledge: Knowledge | None = None,
        rule: RowRule = ANY_ROWS.layers,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`guards` come in order of price; `knowledge` outlives the text. `rule` says how many rows are fed.
        Without a `curve` costs are those of a rough one, and of the rows that were fed so far.

        `clock` gives the seconds by which the price of asking, and calls, are measured.
        """
        self._knowledge = knowledge or Knowledge()
        self._sources = [Source.of(guard, self._knowledge) for guard in guards]
        self._curve, self._rule, self._clock = curve, rule, clock
        self._tells_scale = curve is None or curve.tells_scale
        self._budget = Budget(SHARE)
        self._expected: list[float] = []
        self._costs: list[float] = []
        self._extras: list[float] = []  # by rows, what a call may take beyond a plain one, in plain steps
        self._costs_until = 0
        self._proposals: list[_Proposal] = []
        self._best_cut = NOTHING
        self._begun: set[Guard] = set()
        self._fed: set[int] = set()  # numbers of rows: the first call of each, of many rows, may be bound first
        self._num_tokens = 0  # of the text, in the round in which somebody could be asked; 0 in others
        self._num_resting = 0  # rounds in which nobody is asked, as nothing can be afforded
        self._asked_s = 0.0  # of this round
        self._called_at: float | None = None

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        start, self._num_tokens = self._clock(), 0
        if self._num_resting > 0:
            self._num_resting -= 1
            self._asked_s, self._called_at = 0.0, start
            return NOTHING
        if self._curve is not None:
            self._costs_at(len(history))  # plain calls tell, too, how the curve is off
        left_s = self._budget.left_s(limit)
        draft = self._best(history, limit, left_s) if left_s > 0 and limit > 0 and self._sources else NOTHING
        self._called_at = self._clock()
        self._asked_s = self._called_at - start
        return draft

    def _best(self, history: Sequence[int], limit: int, left_s: float) -> Draft:
        """Return the best draft of those whose price, and that of asking for them, is within `left_s`."""
        costs, extras = self._costs_at(len(history)), self._extras
        self._num_tokens, plain_s = len(history), self._budget.plain_s
        if extras[2] * plain_s > left_s:
            self._num_resting = min(self._budget.rounds_until(extras[2] * plain_s, left_s), CONTEXT_STEP)
            return NOTHING
        remaining, limit = limit, min(limit, MAX_ROWS - 1)
        plain_rate, row_s = MIN_GAIN / (costs[1] + LOOP_S), (costs[-1] - costs[1]) / (MAX_ROWS - 1)
        exploration = EXPLORATION if self._budget.lost_s >= 0 else EXPLORATION_OF_GAINS
        exploration_s = exploration * costs[1] / len(self._sources)
        best, best_rate = NOTHING, plain_rate
        for source in self._sources:
            guard, record = source.guard, source.record
            if len(best) and record.price_s > NOT_CHEAP * costs[1]:
                continue
            reading_s = guard.reading_share * costs[1] * len(history) if guard not in self._begun else 0.0
            record.is_try = not record.pays(costs, best_rate, reading_s=reading_s, remaining=remaining)
            if record.is_try:
                record.credit_s += exploration_s
                if reading_s > min(record.credit_s, remaining * costs[1] / 4):
                    continue
            # Who has shown that it pays may read on the account of the tokens to come.
            ahead_s = (
                0.0 if record.is_try else self._budget.left_s(remaining, whole=True) - self._budget.left_s(remaining)
            )
            num_guesses = min(limit, self._affordable(source, left_s, len(history), reading_s, ahead_s))
            if num_guesses < 1:
                continue
            if record.is_try:
                record.credit_s -= reading_s
            start = self._clock()
            draft = guard.propose(num_guesses, min_chance=best_rate * (row_s + record.guess_s) / 2)
            spent_s = self._clock() - start
            # After guesses of the first stages the call is shorter: what they cost less that is known as their price.
            left_s -= record.guess_s * len(draft) if guard.peeks and record.guess_s else spent_s
            cut, rate = best_cut(draft, source.acceptance, costs, plain_rate)
            gain_s = self._gain_s(cut, rate)
            self._proposals.append(_Proposal(source, draft, cut, gain_s, spent_s))
            if rate > best_rate:
                best, best_rate = cut, rate
        self._best_cut = best
        num_fed = len(best)
        while num_fed and extras[1 + num_fed] * plain_s > left_s:  # asking took longer than it does
            num_fed -= 1
        return best.keep(range(1, 1 + num_fed))

    def _affordable(self, source: Source, left_s: float, num_tokens: int, reading_s: float, ahead_s: float) -> int:
        """Return how many guesses of a drafter may be asked for and fed, if none of them is right."""
        record, plain_s = source.record, self._budget.plain_s
        price_s = record.price_s if record.num_asked else UNKNOWN * plain_s
        if source.guard not in self._begun:
            left_s -= max(max(reading_s, record.read_s * num_tokens) - self._budget.reading_s - ahead_s, 0.0)
        for rows in range(len(self._extras) - 1, 1, -1):
            asking_s = max(price_s, (rows - 1) * record.guess_s)
            if self._extras[rows] * plain_s + asking_s <= left_s:
                return rows - 1
        return 0

    def _costs_at(self, context: int) -> list[float]:
        """Return the seconds of a call of so many rows, [0] being free."""
        if context >= self._costs_until or not self._costs:
            curve = self._curve or rough_curve(self._budget.plain_s)
            fed = [0, *(min(self._rule.fed(rows), MAX_ROWS) for rows in range(1, MAX_ROWS + 1))]
            costs = curve.costs(context, max_rows=MAX_ROWS)
            costs, hopeful = ([by[rows] for rows in fed] for by in (costs, curve.hopeful(context, max_rows=MAX_ROWS)))
            self._expected, self._costs_until = costs, context + CONTEXT_STEP
            self._costs = self._knowledge.times.correct(costs, hopeful)
            if self._curve is None:
                self._costs = self._knowledge.rows.seen(self._costs)
            self._extras = self._worst()
        return self._costs

    def _worst(self) -> list[float]:
        return self._knowledge.rows.worst(self._costs, doubt=DOUBT if self._curve else ROUGH_DOUBT)

    def observe(self, seen: Round) -> None:
        now = self._clock()
        if self._called_at is None:
            self._budget.start(seen.model_s)
            return  # the prompt was fed, and nobody was asked
        call_s = max(now - self._called_at, seen.model_s)  # which a replay looks up, and waits for no call
        self._called_at = None
        usual_s = sum(max(proposal.source.record.price_s, TINY_S) for proposal in self._proposals)
        read_s = self._learn(seen)
        asked_s = max(self._asked_s + self._clock() - now - read_s, 0.0)
        asked_s = self._budget.usual(asked_s, expected_s=usual_s)
        if len(seen.draft) or seen.num_peeked:
            self._settle(seen, call_s, asked_s=asked_s, read_s=read_s)
        else:
            self._budget.plain(call_s, asked_s=asked_s, read_s=read_s)

    def _settle(self, seen: Round, call_s: float, *, asked_s: float, read_s: float) -> None:
        """Count a round with a draft against the budget, and what its rows took."""
        rows, plain_s = 1 + len(seen.draft), self._budget.plain_s
        told = self._costs[rows] / self._costs[1]
        self._budget.drafted(call_s, len(seen.token_ids), asked_s=asked_s, read_s=read_s, expected=told)
        is_bound = rows <= 1 + MOST_PREPARED or rows in self._fed
        if rows > 1 and is_bound and not seen.num_peeked:
            self._knowledge.rows.update(rows, call_s / plain_s - 1, told=told - 1)
            self._extras = self._worst()
        self._fed.add(rows)

    def _learn(self, seen: Round) -> float:
        """Score the proposals of the round and what asking for them took; return the seconds of those that read."""
        rows, read_s = 1 + len(seen.draft), 0.0
        if self._expected and seen.model_s and not seen.num_peeked:
            times = self._knowledge.times
            was_known = times.is_known(rows)
            expected_s, tells_scale = self._expected[rows], self._tells_scale
            times.update(rows, measured_s=seen.model_s, expected_s=expected_s, tells_scale=tells_scale)
            if times.is_known(rows) != was_known:
                self._costs_until = 0
        for proposal in self._proposals:
            guard, record = proposal.source.guard, proposal.source.record
            proposal.source.learn(proposal.draft, seen.token_ids)
            start = self._clock()
            guard.observe(seen)
            spared_s = self._costs[rows] - seen.model_s if seen.num_peeked else 0.0
            spent_s = proposal.spent_s + self._clock() - start - guard.peeks * spared_s
            spent_s = record.usual(spent_s, num_guesses=len(proposal.draft), plain_s=self._costs[1])
            if guard in self._begun:
                record.settle(spent_s, self._merit_s(proposal), num_guesses=len(proposal.draft))
            else:
                record.read(proposal.spent_s, num_tokens=self._num_tokens)
                read_s += proposal.spent_s
                self._begun.add(guard)
        self._proposals = []
        return read_s

    def _gain_s(self, draft: Draft, rate: float) -> float:
        """Return what a draft with so many expected tokens per second saves against plain decoding."""
        if not len(draft):
            return 0.0
        cost = self._costs[1 + len(draft)] + LOOP_S
        return rate * cost * (self._costs[1] + LOOP_S) - cost

    def _merit_s(self, proposal: _Proposal) -> float:
        """Return what asking this drafter gained: of the one that was taken, what the next best would not have.

        It is what was expected, not what came out, which depends on luck; that the two agree is up to the chances.
        """
        if proposal.cut is not self._best_cut:
            return 0.0
        others = (other.gain_s for other in self._proposals if other is not proposal)
        return proposal.gain_s - max(others, default=0.0)

    def finish(self, history: Sequence[int]) -> None:
        for source in self._sources:
            source.guard.finish()


def best_cut(draft: Draft, acceptance: Acceptance, costs: Sequence[float], rate: float) -> tuple[Draft, float]:
    """Return the part of the draft with the most expected tokens per second, if above `rate`, and its rate.

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
        cost = costs[count + 1] + LOOP_S
        if expected > rate * cost:
            rate, num_rows = expected / cost, count
    return draft.keep(sorted(order[:num_rows])), rate


def open_planner(context: DrafterContext, drafters: Sequence[Drafter]) -> Planner:
    """Return the plan of one text over drafters in order of price; what it learns outlives the text."""
    model, sequence = context.model, context.sequence
    guards = [Guard(drafter, sequence) for drafter in drafters]
    knowledge = model.shared.get("planner knowledge", Knowledge)
    sequence.prepare(MOST_PREPARED)
    rules = sequence.rules or ANY_ROWS
    return Planner(guards, known_curve(model), knowledge=knowledge, rule=rules.layers)


METHOD = Method(name="auto", joins=open_planner, stands_alone=True, text_only=True, takes_batches=True, usual_rows=2)
