"""The planner on made-up curves and scripted drafters: the best plan each round, and never much worse than plain.

Time is simulated; see `simulated_texts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_texts import (
    NO_LOGITS,
    Clock,
    IsRight,
    Scripted,
    Simulation,
    always,
    line,
    never,
    simulation,
    with_one,
)

from skipstone.runtime.costs import MAX_ROWS, CostCurve
from skipstone.runtime.decoding import Acceptance, Round
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.auto import best_cut
from skipstone.runtime.methods.auto.knowledge import LOOP_S, CallTimes, Knowledge, Record

# The best part of a draft


def chances_by_level(chances: Sequence[float]) -> Acceptance:
    return Acceptance(lambda level: chances[level])


def rate_of(rows: Sequence[int], draft: Draft, chances: Sequence[float], costs: Sequence[float]) -> float:
    """Return the tokens per millisecond to expect of these rows, added up node by node."""
    expected = 1.0
    for row in rows:
        chance, at = 1.0, row
        while at:
            chance, at = chance * chances[draft.levels[at - 1]], draft.parents[at - 1]
        expected += chance
    return expected / (costs[1 + len(rows)] + LOOP_S)


@st.composite
def levelled(draw: st.DrawFn, *, max_size: int, chain: bool = False) -> tuple[Draft, list[float], list[float]]:
    """A draft with levels, the chance of each level, and costs that never fall."""
    chances = draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    size = draw(st.integers(0, max_size))
    parents = [row if chain else draw(st.integers(0, row)) for row in range(size)]
    levels = [draw(st.integers(0, 2)) for _ in range(size)]
    steps = draw(st.lists(st.floats(0, 0.6), min_size=max_size, max_size=max_size))
    costs = [0.0, 1.0]
    for step in steps:
        costs.append(costs[-1] + step)
    # Tokens differ, so that any tree is a draft.
    return Draft(tuple(range(size)), "made up", tuple(parents), tuple(levels)), chances, costs


def is_closed(rows: Sequence[int], draft: Draft) -> bool:
    return all(draft.parents[row - 1] in (0, *rows) for row in rows)


@given(levelled(max_size=7), st.floats(0, 1.5))
@settings(deadline=None)
def test_the_best_cut_is_the_best_of_all_parts_closed_under_parents(
    given_draft: tuple[Draft, list[float], list[float]], rate: float
) -> None:
    draft, chances, costs = given_draft
    rows = range(1, 1 + len(draft))
    parts = [part for size in rows for part in combinations(rows, size) if is_closed(part, draft)]
    best = max((rate_of(part, draft, chances, costs) for part in parts), default=0.0)
    cut, found = best_cut(draft, chances_by_level(chances), costs, rate)
    assert found == pytest.approx(max(best, rate))
    if len(cut):
        kept = [row for row in rows if draft.token_ids[row - 1] in cut.token_ids]
        assert is_closed(kept, draft)
        assert cut == draft.keep(kept)
        assert rate_of(kept, draft, chances, costs) == pytest.approx(found)
        assert found > rate


@given(levelled(max_size=12, chain=True), st.floats(0, 1.5))
@settings(deadline=None)
def test_the_best_cut_of_a_chain_is_its_best_beginning(
    given_draft: tuple[Draft, list[float], list[float]], rate: float
) -> None:
    draft, chances, costs = given_draft
    best = max((rate_of(range(1, size + 1), draft, chances, costs) for size in range(1, len(draft) + 1)), default=0.0)
    cut, found = best_cut(draft, chances_by_level(chances), costs, rate)
    assert found == pytest.approx(max(best, rate))
    assert cut.token_ids == draft.token_ids[: len(cut)] and cut.is_chain
    assert bool(len(cut)) == (found > rate)


@given(levelled(max_size=MAX_ROWS - 1, chain=True))
@settings(deadline=None)
def test_large_drafts_are_cut_to_few_sizes_and_the_best_of_those(
    given_draft: tuple[Draft, list[float], list[float]],
) -> None:
    draft, chances, costs = given_draft
    sizes = [size for size in range(1, len(draft) + 1) if size < 16 or (size + 1) % 4 == 0 or size == len(draft)]
    best = max((rate_of(range(1, size + 1), draft, chances, costs) for size in sizes), default=0.0)
    cut, found = best_cut(draft, chances_by_level(chances), costs, 0.0)
    assert found == pytest.approx(best)
    assert len(cut) in (0, *sizes)


def test_a_draft_without_levels_is_all_of_one_level() -> None:
    draft = Draft.chain([5, 6, 7], source="x")
    cut, rate = best_cut(draft, Acceptance(lambda level: [0.5][level]), [0, 1.0, 1.1, 1.2, 1.9], 0.0)
    assert (cut.token_ids, rate) == ((5, 6), pytest.approx(1.75 / (1.2 + LOOP_S)))


# Whether to draft


def test_a_gain_below_three_percent_is_not_worth_a_draft() -> None:
    cost, plain = 1.2e-3 + LOOP_S, 1e-3 + LOOP_S
    for gain, drafted in ((1.0, 0), (1.029, 0), (1.031, 1), (1.2, 1)):
        run, _ = with_one(always, row_ms=0.2, length=1, chance=gain * cost / plain - 1)
        run.wait()
        assert len(run.planner.propose([0], limit=9)) == drafted


def test_without_drafters_and_without_guesses_it_is_plain_decoding() -> None:
    assert simulation(lambda clock: []).run(50) == pytest.approx(1)
    run, _ = with_one(always, length=0)
    assert (run.run(50), run.num_drafted) == (pytest.approx(1), 0)


def test_right_guesses_are_taken_as_far_as_rows_pay() -> None:
    run, _ = with_one(always, length=15)
    assert run.run(2000) < 0.3
    cheap, dear = (with_one(always, row_ms=row_ms, length=15)[0] for row_ms in (0.1, 0.9))
    for each in (cheap, dear):
        each.run(2000)
    assert len(cheap.drafts[-3]) == 15, "each of them is nearly sure by now"
    assert dear.num_drafted == 0 or dear.drafts[-3].is_chain


def test_no_more_rows_are_drafted_than_were_measured() -> None:
    run, drafter = with_one(always, length=100)
    run.run(300)
    assert max(drafter.limits) == max(map(len, run.drafts)) == MAX_ROWS - 1


def test_the_limit_of_a_text_is_kept() -> None:
    run, drafter = with_one(always, length=9, chance=0.9)
    run.wait()
    assert len(run.planner.propose([0], limit=3)) == 3
    assert drafter.limits == [3]


def test_the_faster_of_two_proposals_is_taken_whatever_their_order() -> None:
    for chances in ((0.5, 0.8), (0.8, 0.5)):
        run = simulation(
            lambda clock, chances=chances: [  # type: ignore[misc]
                Scripted(clock, always, name=f"{chance}", chance=chance) for chance in chances
            ]
        )
        run.wait()
        assert run.planner.propose([0], limit=9).source == "0.8"


# What is learned


def test_it_learns_from_proposals_that_were_not_taken() -> None:
    knowledge = Knowledge()
    clock = Clock()
    names = {"right": always, "wrong": never}
    drafters = [Scripted(clock, known, name=name) for name, known in names.items()]
    run = simulation(lambda _: drafters, row_ms=1.5, knowledge=knowledge, clock=clock)
    run.wait()
    run.run(60)
    assert run.num_drafted == 0, "on this curve no guess pays"
    right, wrong = (Acceptance(never, counts=knowledge.record(drafter.name).counts) for drafter in drafters)
    assert right.chance(0) > 0.9
    assert wrong.chance(0) < 0.1


def test_guesses_behind_a_wrong_one_teach_nothing() -> None:
    acceptance = Acceptance(lambda level: 0.4)
    # Wrong at the first; what stands behind it has another level.
    Record().learn(Draft.chain([1, 0, 0], source="x", levels=[1, 2, 2]), [0, 0], acceptance)
    assert acceptance.chance(1) < 0.4
    assert acceptance.chance(2) == 0.4
    # A tree: of the two after the pending token one is right, and the guess behind it is reached.
    acceptance = Acceptance(lambda level: 0.4)
    Record().learn(Draft((1, 0, 0, 1), "x", (0, 0, 1, 2), (1, 2, 3, 4)), [0, 0, 0], acceptance)
    assert [acceptance.chance(level) > 0.4 for level in (1, 2, 4)] == [False, True, False]
    assert acceptance.chance(3) == 0.4, "it follows a guess that did not come"


def test_what_was_learned_in_one_text_serves_the_next() -> None:
    knowledge = Knowledge()
    simulation(lambda clock: [Scripted(clock, never)], knowledge=knowledge).run(300)
    later = simulation(lambda clock: [Scripted(clock, never)], knowledge=knowledge)
    later.run(100)
    assert later.num_drafted == 0
    fresh = simulation(lambda clock: [Scripted(clock, never)])
    fresh.run(100)
    assert fresh.num_drafted > 0


def test_levels_are_told_apart() -> None:
    clock = Clock()

    @dataclass
    class TwoLevels(Scripted):
        """Right whenever it says so by its level."""

        def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            self.level = len(history) % 2
            return super().propose(history, limit=min(limit, 1))

    run = simulation(lambda _: [TwoLevels(clock, lambda position: position % 2 == 1)], clock=clock, row_ms=0.3)
    run.run(1000)
    late = [draft for draft in run.drafts[300:] if len(draft)]
    assert {draft.levels for draft in late} == {(1,)}
    assert len(late) > 150


# Drafters that do not pay


@pytest.mark.parametrize("price_ms", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("row_ms", [0.0, 0.1, 0.5])
def test_a_drafter_that_is_always_wrong_rests_and_costs_less_than_a_hundredth(price_ms: float, row_ms: float) -> None:
    run, drafter = with_one(never, row_ms=row_ms, price_ms=price_ms)
    run.run(1000)
    spent_ms, start_ms, drafted = drafter.spent_ms, run.clock.now_ms, run.num_drafted
    assert run.run(4000) < 1.01
    share = (drafter.spent_ms - spent_ms) / (run.clock.now_ms - start_ms)
    assert 0 < share < 0.01
    assert row_ms == 0 or run.num_drafted - drafted <= 2, "hardly a guess is fed any more, where rows have a price"


def test_exploration_costs_less_than_a_hundredth_for_all_drafters_together() -> None:
    drafters: list[Scripted] = []

    def make(clock: Clock) -> list[Scripted]:
        drafters.extend(Scripted(clock, never, name=f"{number}", price_ms=0.1) for number in range(4))
        return drafters

    run = simulation(make)
    run.run(2000)
    spent_ms, start_ms = sum(drafter.spent_ms for drafter in drafters), run.clock.now_ms
    assert run.run(4000) < 1.01
    share = (sum(drafter.spent_ms for drafter in drafters) - spent_ms) / (run.clock.now_ms - start_ms)
    assert 0.005 < share < 0.01
    assert min(len(drafter.asked_at) for drafter in drafters) > 50, "each gets its tries"


@pytest.mark.parametrize(("price_ms", "num_tokens"), [(0.02, 300), (0.1, 800), (0.5, 3000)])
def test_a_resting_drafter_that_becomes_right_is_used_again(price_ms: float, num_tokens: int) -> None:
    turn = 2001
    run, drafter = with_one(lambda position: position >= turn, price_ms=price_ms, length=8)
    assert run.run(turn - 1) > 1
    assert len(drafter.asked_at) < turn * 0.6, "it rests"
    run.run(num_tokens)
    assert run.run(500) < 0.7, "tries cost a hundredth, so the dearer it is, the later it is believed"


def test_of_two_that_guess_the_same_the_dearer_rests() -> None:
    drafters: list[Scripted] = []

    def make(clock: Clock) -> list[Scripted]:
        drafters[:] = [Scripted(clock, always, name=name, price_ms=price) for name, price in (("a", 0.02), ("b", 0.08))]
        return drafters

    run = simulation(make, row_ms=0.2)
    run.run(2000)
    cheap, dear = (len(drafter.asked_at) for drafter in drafters)
    assert cheap > 300
    assert dear < 0.5 * cheap
    asked = [len(drafter.asked_at) for drafter in drafters]
    run.run(2000)
    again = [len(drafter.asked_at) - before for drafter, before in zip(drafters, asked, strict=True)]
    assert again[1] < 0.5 * again[0], "it is tried now and then, from what was gained"
    assert {draft.source for draft in run.drafts[-300:] if len(draft)} == {"a"}


def test_a_dear_drafter_is_asked_where_a_cheap_one_has_no_guess() -> None:
    # The cheap one knows the first half of every hundred tokens and is silent in the other.
    clock = Clock()

    @dataclass
    class Silent(Scripted):
        def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            draft = super().propose(history, limit=limit)
            return draft if self.is_right(len(history)) else Draft.empty()

    cheap = Silent(clock, lambda position: position % 100 < 50, name="cheap", price_ms=0.01, length=8)
    dear = Scripted(clock, always, name="dear", guess_ms=0.15, length=4)
    run = simulation(lambda _: [cheap, dear], clock=clock, row_ms=0.05)
    run.run(2000)
    seen = len(dear.asked_at)
    assert run.run(4000) < 0.6
    halves = [position % 100 < 42 for position in dear.asked_at[seen:]]
    assert halves.count(False) > 4 * halves.count(True)
    assert halves.count(False) > 200


@pytest.mark.parametrize("guess_ms", [0.12, 0.5])
def test_a_dear_drafter_that_is_often_wrong_is_hardly_asked(guess_ms: float) -> None:
    run, drafter = with_one(lambda position: position % 3 == 0, guess_ms=guess_ms, row_ms=0.3)
    run.run(1000)
    seen = len(drafter.asked_at)
    assert run.run(3000) < 1.012
    assert len(drafter.asked_at) - seen < 3000 * 0.01 / guess_ms


def test_a_drafter_that_must_read_the_whole_text_first_is_not_asked_near_its_end() -> None:
    clock = Clock()
    drafter = Scripted(clock, always, guess_ms=0.05, length=8)
    drafter.reading_share = 0.05
    knowledge = Knowledge()
    for num_tokens in (1000, 300):  # what is saved up in the first text pays for a try in the second
        known = simulation(lambda _: [drafter], clock=clock, knowledge=knowledge)
        known.run(num_tokens)
    assert known.num_drafted > 200, "it was tried while the text was short, and is known to be good"
    history = [0] * 500  # reading takes 25 plain steps
    for limit, asked in ((20, False), (2000, True)):
        drafter.asked_at.clear()
        later = simulation(lambda _: [drafter], clock=clock, knowledge=knowledge)
        later.text.token_ids = history
        later.wait(10)
        later.planner.propose(history, limit=limit)
        assert bool(drafter.asked_at) == asked


# Never much worse than plain


@dataclass
class Spiteful(Scripted):
    """Knows what the planner believes: right while it is not trusted, wrong as soon as it is."""

    planned: Callable[[Draft], int] = len

    def knows(self, history: Sequence[int], depth: int) -> bool:
        return not self.planned(Draft.chain([0] * self.length, source=self.name, levels=[0] * self.length))


blocks = st.lists(st.tuples(st.booleans(), st.sampled_from([1, 2, 3, 5, 10, 20, 50, 100])), min_size=1, max_size=12)


@given(
    patterns=st.lists(blocks, min_size=1, max_size=3),
    price_ms=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    row_ms=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    length=st.sampled_from([1, 4, 15]),
)
@settings(deadline=None, max_examples=60)
def test_whatever_the_drafters_do_the_time_is_that_of_plain_decoding_and_three_percent(
    patterns: list[list[tuple[bool, int]]], price_ms: float, row_ms: float, length: int
) -> None:
    def make(clock: Clock) -> list[Scripted]:
        known = [[right for right, size in pattern for _ in range(size)] for pattern in patterns]
        return [
            Scripted(
                clock,
                lambda at, line=line: line[at % len(line)],
                name=f"{number}",
                price_ms=price_ms,
                length=length,  # type: ignore[misc]
            )
            for number, line in enumerate(known)
        ]

    assert simulation(make, row_ms=row_ms).run(600) < 1.03


@pytest.mark.parametrize("num_drafters", [1, 3])
@pytest.mark.parametrize("price_ms", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("row_ms", [0.1, 0.4, 0.8])
def test_not_even_drafters_that_know_the_plan_can_make_it_lose(
    num_drafters: int, price_ms: float, row_ms: float
) -> None:
    knowledge, costs = Knowledge(), line(row_ms).costs(0, max_rows=MAX_ROWS)

    def planned(name: str) -> Callable[[Draft], int]:
        acceptance = Acceptance(Scripted(Clock(), never).prior, counts=knowledge.record(name).counts)
        return lambda draft: len(best_cut(draft, acceptance, costs, 1.03 / (costs[1] + LOOP_S))[0])

    def make(clock: Clock) -> list[Spiteful]:
        names = [f"{number}" for number in range(num_drafters)]
        return [Spiteful(clock, never, name=name, price_ms=price_ms, planned=planned(name)) for name in names]

    assert simulation(make, row_ms=row_ms, knowledge=knowledge).run(1000) < 1.03


def test_many_short_texts_lose_no_more_than_a_long_one() -> None:
    knowledge, total = Knowledge(), 0.0
    for _ in range(50):
        total += simulation(lambda clock: [Scripted(clock, never, price_ms=0.1)], knowledge=knowledge).run(20)
    assert total / 50 < 1.03


# What calls really take


def test_the_factors_of_calls_follow_the_median() -> None:
    times = CallTimes()
    for index in range(600):
        # Two calls in three take 1.3 ms and one takes fifty times as long.
        times.update(2, measured_s=65.0 if index % 3 == 0 else 1.3, expected_s=1.0)
    corrected = times.correct([0.0] + [1.0] * MAX_ROWS)
    assert corrected[2] == pytest.approx(1.3, rel=0.1)
    assert 1 <= corrected[1] < 1.2, "plain calls tell what they take"


def test_one_slow_call_counts_no_more_than_any() -> None:
    times = CallTimes()
    times.update(1, measured_s=1000.0, expected_s=1.0)
    assert times.correct([0.0] + [1.0] * MAX_ROWS)[1] == pytest.approx(1.02**2)


@given(st.lists(st.tuples(st.integers(1, MAX_ROWS), st.floats(0.01, 100)), max_size=400))
def test_corrected_costs_never_fall_and_stay_within_bounds(calls: list[tuple[int, float]]) -> None:
    times, costs = CallTimes(), line(0.1).costs(0, max_rows=MAX_ROWS)
    for rows, measured_ms in calls:
        times.update(rows, measured_s=measured_ms / 1e3, expected_s=costs[rows])
    corrected = times.correct(costs)
    assert corrected[0] == 0 and corrected == sorted(corrected) and len(corrected) == len(costs)
    assert all(cost / 32 <= after for cost, after in zip(costs, corrected, strict=True))
    assert max(corrected) <= 32 * max(costs)


def test_a_curve_that_is_wrong_mends_itself() -> None:
    # The second row seems to be free, and costs nearly as much as another call.
    wrong = CostCurve(rows=(1, 2, 16), contexts=(0,), seconds=((0.001, 0.00105, 0.0013),))
    real = CostCurve(rows=(1, 2, 16), contexts=(0,), seconds=((0.001, 0.0019, 0.014),))
    clock = Clock()
    half = np.random.default_rng(0).random(3000) < 0.5
    run = simulation(lambda _: [Scripted(clock, lambda at: half[at], length=1)], curve=wrong, real=real, clock=clock)
    run.run(2500)
    assert 1 < run.num_drafted < 100, "half of the guesses are right, which would pay on the wrong curve only"


def test_a_prompt_that_nobody_was_asked_for_tells_nothing() -> None:
    knowledge = Knowledge()
    run = simulation(lambda clock: [Scripted(clock, always)], knowledge=knowledge)
    run.planner.observe(Round(Draft.empty(), 0, [0], [0], NO_LOGITS, model_s=0.5))
    assert knowledge.times.correct([0.0] + [1.0] * MAX_ROWS) == [0.0] + [1.0] * MAX_ROWS


def test_costs_are_those_of_the_context() -> None:
    # Rows are dear behind a short text and cheap behind a long one.
    curve = CostCurve(rows=(1, 2, 16), contexts=(0, 1000), seconds=((0.001, 0.003, 0.02), (0.004, 0.0041, 0.0045)))
    for length, drafted in ((10, 0), (1000, 4)):
        run = simulation(lambda clock: [Scripted(clock, always, chance=0.9)], curve=curve)
        run.wait()
        assert len(run.planner.propose([0] * length, limit=9)) == drafted


# Exact


def test_an_exact_text_counts_rows_in_pairs() -> None:
    # The second row is fed anyway, the third and fourth cost as much as three more calls.
    curve = CostCurve(rows=(1, 2, 3, 4, 16), contexts=(0,), seconds=((0.001, 0.0019, 0.0049, 0.0049, 0.03),))
    for exact, drafted in ((True, 1), (False, 0)):
        run = simulation(lambda clock: [Scripted(clock, always, chance=0.8)], curve=curve, exact=exact)
        run.wait()
        assert len(run.planner.propose([0], limit=9)) == drafted


def test_an_exact_text_is_drafted_up_to_whole_pairs() -> None:
    run = simulation(lambda clock: [Scripted(clock, always, length=9)], exact=True, row_ms=0.2)
    assert run.run(1000) < 0.5
    assert {(1 + len(draft)) % 2 for draft in run.drafts[10:-5]} == {0}


# Guesses of the first stages


@dataclass
class Peeking(Scripted):
    """Guesses with the first stages of the model, which are `share` of it: the call after it runs them for one row."""

    share: float = 0.25
    peeks: bool = True
    num_peeked: int = 0

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        draft = super().propose(history, limit=limit)
        self.num_peeked = len(draft)
        return draft

    def spared_s(self, rows: int, costs: Sequence[float]) -> float:
        """What a call of so many rows takes less after the guesses."""
        left = rows - min(self.num_peeked, rows)
        return self.share * (costs[rows] - costs[left])


@dataclass
class StagedSimulation(Simulation):
    """Calls after guesses of the first stages are shorter."""

    def run(self, num_tokens: int) -> float:
        start_s, end = self.clock(), len(self.text.token_ids) + num_tokens
        costs = self.real.costs(0, max_rows=MAX_ROWS + 1)
        (peeking,) = (source.guard._drafter for source in self.planner._sources if source.guard.peeks)
        assert isinstance(peeking, Peeking)
        while (left := end - len(self.text.token_ids)) > 0:
            peeking.num_peeked = 0
            draft = self.planner.propose(self.text.token_ids, limit=left - 1) if left > 1 else Draft.empty()
            rows = 1 + len(draft)
            num_peeked = min(peeking.num_peeked, rows)
            call_s = costs[rows] - peeking.spared_s(rows, costs)
            self.clock.now_ms += 1e3 * (call_s + LOOP_S)
            path = draft.path([0] * left)
            accepted = [0] * min(len(path), left)
            self.text.token_ids += accepted
            self.planner.observe(Round(draft, 0, accepted, path, NO_LOGITS, call_s, num_peeked))
            self.drafts.append(draft)
        return (self.clock() - start_s) / (num_tokens * (costs[1] + LOOP_S))


def with_peeking(is_right: IsRight, *others: Scripted, row_ms: float = 0.1, **options: Any) -> StagedSimulation:
    clock = Clock()
    peeking = Peeking(clock, is_right, name="self", **{"guess_ms": 0.25, "chance": 0.5, **options})
    for other in others:
        other.clock = clock
    run = simulation(lambda _: [*others, peeking], row_ms=row_ms, clock=clock, knowledge=Knowledge())
    return StagedSimulation(run.planner, run.text, clock, run.curve, run.real)


def factors_of(run: Simulation) -> list[float]:
    costs = run.curve.costs(0, max_rows=MAX_ROWS)
    return [
        after / cost for after, cost in zip(run.planner._knowledge.times.correct(costs)[1:], costs[1:], strict=True)
    ]


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("row_ms", [0.05, 0.3])
def test_guesses_of_the_first_stages_are_used_where_they_pay(share: float, row_ms: float) -> None:
    run = with_peeking(always, row_ms=row_ms, share=share, guess_ms=share, length=8)
    run.run(1000)
    assert run.run(2000) < 0.9
    assert run.num_drafted > 500


@pytest.mark.parametrize("row_ms", [0.05, 0.3])
def test_guesses_of_the_first_stages_cost_nothing_where_they_do_not_pay(row_ms: float) -> None:
    run = with_peeking(never, row_ms=row_ms)
    assert run.run(1000) < 1.03
    drafted = run.num_drafted
    assert run.run(4000) < 1.01
    assert run.num_drafted - drafted <= 4


def test_calls_that_were_partly_done_do_not_make_rows_look_cheap() -> None:
    run = with_peeking(always, length=6, share=0.5, guess_ms=0.3)
    run.run(2000)
    assert run.num_drafted > 500
    assert factors_of(run) == pytest.approx([1.0] * MAX_ROWS)


@pytest.mark.parametrize("is_right", [always, never], ids=["right", "wrong"])
def test_the_price_of_guesses_is_what_they_take_less_what_they_spare(is_right: IsRight) -> None:
    """Three guesses of 0.25: verified they spare a quarter of three rows of four, dropped a quarter of a plain call."""
    run = with_peeking(is_right, length=3, row_ms=0.1)
    run.run(3000)
    record = run.planner._sources[0].record
    spared_ms = 0.25 * 0.3 if is_right is always else 0.25
    assert record.price_s == pytest.approx((0.75 - spared_ms) / 1e3, rel=0.05)
    assert record.guess_s == pytest.approx((0.75 - spared_ms) / 3e3, rel=0.05)


def test_guesses_of_the_first_stages_rest_while_a_cheap_drafter_knows_the_text() -> None:
    @dataclass
    class Silent(Scripted):
        """Guesses nothing where it does not know."""

        def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            known = self.is_right(len(history))
            return super().propose(history, limit=limit) if known else Draft.empty()

    cheap = Silent(Clock(), lambda position: position % 200 < 100, name="cheap", price_ms=0.01, length=8)
    run = with_peeking(always, cheap, length=4, guess_ms=0.3, share=0.3)
    run.run(2000)
    assert run.run(4000) < 0.5
    sources = Counter(draft.source for draft in run.drafts[-400:] if len(draft))
    assert min(sources["cheap"], sources["self"]) > 50


@given(
    blocks,
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([(0.25, 1), (0.25, 4), (0.5, 1), (0.5, 2), (0.75, 1)]),
)
@settings(deadline=None, max_examples=60)
def test_whatever_the_first_stages_guess_the_time_is_that_of_plain_decoding_and_three_percent(
    pattern: list[tuple[bool, int]], row_ms: float, guesses: tuple[float, int]
) -> None:
    known, (share, length) = [right for right, size in pattern for _ in range(size)], guesses
    run = with_peeking(
        lambda at: known[at % len(known)], row_ms=row_ms, share=share, guess_ms=share * 1.05, length=length
    )
    assert run.run(600) < 1.03


# Failures


@dataclass
class Failing(Scripted):
    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        if len(history) > 20:
            raise RuntimeError("out of order")
        return super().propose(history, limit=limit)


def test_a_drafter_that_fails_is_left_out_and_the_others_go_on() -> None:
    run = simulation(lambda clock: [Failing(clock, always, name="bad"), Scripted(clock, always, name="good")])
    with pytest.warns(RuntimeWarning, match="drafter bad failed and is left out") as warned:
        assert run.run(500) < 0.5
    assert len(warned) == 1
    assert {draft.source for draft in run.drafts[-50:] if len(draft)} == {"good"}


def test_all_drafters_hear_of_the_end() -> None:
    ended: list[str] = []

    @dataclass
    class Ending(Scripted):
        def finish(self, history: Sequence[int]) -> None:
            ended.append(f"{self.name} {len(history)}")

    run = simulation(lambda clock: [Ending(clock, never, name="a", price_ms=9.0), Ending(clock, always, name="b")])
    run.run(99)
    run.planner.finish(run.text.token_ids)
    assert ended == ["a 100", "b 100"]
