"""No text takes much longer than plain decoding, whatever curves say and drafters do; and what a budget counts.

Time is simulated; see `simulated_texts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_texts import Clock, Scripted, always, line, simulation

from skipstone.runtime.costs import MAX_ROWS, CostCurve
from skipstone.runtime.methods.auto import Knowledge
from skipstone.runtime.methods.auto.budget import SHARE, Budget, RowCosts

LATER = 1 / 0.97
ROWS = range(1, MAX_ROWS + 1)

# Which tokens a drafter knows: stretches, right or wrong, again and again; also none, and those of the beginning only.
stretches = st.lists(st.tuples(st.booleans(), st.sampled_from([1, 3, 10, 40, 200])), min_size=1, max_size=6)
lengths = st.sampled_from([1, 2, 5, 20, 60, 160, 400])


def curve(seconds: Sequence[float]) -> CostCurve:
    return CostCurve(rows=tuple(ROWS), contexts=(0,), seconds=(tuple(seconds),))


@st.composite
def curves(draw: st.DrawFn) -> tuple[CostCurve, CostCurve]:
    """What the planner is told, and what calls take: half of that to twice, all calls or rows beyond the first."""
    row_s, scale, factor = (
        draw(st.sampled_from(values)) for values in ((0.02, 0.1, 0.4, 1.0), (0.5, 1, 2), (0.5, 1, 2))
    )
    told = curve([1e-3 * (1 + row_s * (rows - 1)) for rows in ROWS])
    return told, curve([1e-3 * scale * (1 + factor * row_s * (rows - 1)) for rows in ROWS])


def knows(stretches: Sequence[tuple[bool, int]]) -> Callable[[int], bool]:
    tokens = [is_right for is_right, size in stretches for _ in range(size)]
    return lambda position: tokens[position % len(tokens)]


@given(
    st.lists(stretches, min_size=1, max_size=3),
    curves(),
    st.lists(lengths, min_size=1, max_size=6),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.sampled_from([1, 4, 15]),
    st.booleans(),
)
@example([[(False, 1)]], (line(0.1), line(0.2)), [160] * 6, 0.05, 15, False)
@example([[(True, 40), (False, 200)]] * 3, (line(0.1), line(0.2)), [400, 160, 60, 160], 0.01, 15, False)
@settings(deadline=None, max_examples=150)
def test_no_text_is_slower_than_plain_decoding_by_more_than_its_share(
    patterns: Sequence[Sequence[tuple[bool, int]]],
    curves: tuple[CostCurve, CostCurve],
    num_tokens: Sequence[int],
    price_ms: float,
    length: int,
    is_rough: bool,
) -> None:
    knowledge, (told, real) = Knowledge(), curves

    def make(clock: Clock) -> list[Scripted]:
        return [
            Scripted(clock, knows(pattern), name=f"{number}", price_ms=price_ms, length=length)
            for number, pattern in enumerate(patterns)
        ]

    for count in num_tokens:
        text = simulation(make, curve=told, real=real, knowledge=knowledge, is_rough=is_rough)
        assert text.run(count) <= LATER
        text.planner.finish(text.text.token_ids)


@given(
    st.lists(st.floats(0.5, 2), min_size=MAX_ROWS, max_size=MAX_ROWS),
    st.sampled_from([0.02, 0.1, 0.4]),
    stretches,
    st.lists(st.sampled_from([160, 400]), min_size=1, max_size=3),
)
@settings(deadline=None, max_examples=100)
def test_not_even_a_curve_that_is_wrong_for_each_number_of_rows_makes_a_text_of_usual_length_slow(
    factors: Sequence[float], row_s: float, pattern: Sequence[tuple[bool, int]], num_tokens: Sequence[int]
) -> None:
    costs = [1e-3 * factor * (1 + row_s * (rows - 1)) for rows, factor in zip(ROWS, factors, strict=True)]
    real = curve([max(costs[:rows]) for rows in ROWS])
    told = curve([1e-3 * (1 + row_s * (rows - 1)) for rows in ROWS])
    knowledge = Knowledge()
    for count in num_tokens:
        text = simulation(
            lambda clock: [Scripted(clock, knows(pattern), length=15)], curve=told, real=real, knowledge=knowledge
        )
        assert text.run(count) <= LATER


def test_a_text_that_drafters_know_is_fast_from_its_beginning_on() -> None:
    knowledge = Knowledge()
    speeds = [
        simulation(lambda clock: [Scripted(clock, always, length=15)], row_ms=0.1, knowledge=knowledge).run(160)
        for _ in range(2)
    ]
    assert speeds[0] < 0.5
    assert speeds[1] < 0.4


# What is counted


def budget(*, plain_s: float = 1.0, num_tokens: int = 100) -> Budget:
    made = Budget(SHARE)
    for _ in range(num_tokens):
        made.plain(plain_s, asked_s=0.0, read_s=0.0)
    return made


def test_there_is_nothing_to_lose_before_plain_calls_were_timed() -> None:
    assert [budget(num_tokens=count).left_s(0) > 0 for count in range(1, 5)] == [False, False, False, True]


def test_the_budget_is_a_share_of_the_tokens_made_and_of_half_of_those_to_come() -> None:
    assert budget().left_s(0) == pytest.approx(SHARE * 101)
    assert budget(plain_s=2.0).left_s(80) == pytest.approx(SHARE * 141 * 2)
    assert budget().left_s(10**6) == pytest.approx(SHARE * (101 + 48))


def test_a_plain_call_takes_what_the_last_ones_took_but_for_those_that_were_held_up() -> None:
    text = budget()
    for call_s in (1.0, 50.0, 1.0, 60.0, 1.0):
        text.plain(call_s, asked_s=0.0, read_s=0.0)
    assert text.plain_s == pytest.approx((7 + 2 * 3) / 9)


def test_drafts_that_fail_are_lost_and_those_that_stand_won() -> None:
    text = budget()
    text.drafted(1.5, 1, asked_s=0.25, read_s=0.0, expected=1.5)
    assert text.lost_s == pytest.approx(0.75)
    text.drafted(1.5, 3, asked_s=0.25, read_s=0.0, expected=1.5)
    assert text.lost_s == pytest.approx(-0.5)


def test_of_what_was_won_only_so_much_can_be_lost_again() -> None:
    text = budget()
    for _ in range(100):
        text.drafted(1.5, 9, asked_s=0.0, read_s=0.0, expected=1.5)
    assert text.lost_s == -40.0


def test_a_call_that_the_system_held_up_is_not_all_the_fault_of_a_draft() -> None:
    text = budget()
    text.drafted(1000.0, 1, asked_s=0.0, read_s=0.0, expected=1.5)
    assert text.lost_s == pytest.approx(3.5)


def test_reading_a_long_prompt_is_paid_by_the_time_that_the_model_took_to_read_it() -> None:
    text = budget()
    text.start(100.0)
    text.plain(1.0, asked_s=0.0, read_s=2.0)
    assert (text.lost_s, text.reading_s) == (0.0, pytest.approx(100 * SHARE - 2.0))
    text.plain(1.0, asked_s=0.0, read_s=2.0)
    assert text.lost_s == pytest.approx(4.0 - 100 * SHARE)


# What rows cost


COSTS = [0.0, *(1 + 0.1 * extra for extra in range(MAX_ROWS))]


def test_rows_that_were_never_fed_are_doubted_and_others_believed() -> None:
    rows = RowCosts()
    assert rows.worst(COSTS)[1:4] == pytest.approx([0.0, 0.2, 0.4])
    rows.update(3, 0.25, told=0.2)
    assert rows.worst(COSTS)[1:5] == pytest.approx([0.0, 0.2, 0.25, 0.6])
    rows.update(2, 1.0, told=0.1)
    assert rows.worst(COSTS)[4] == pytest.approx(1.3 * 2 / 1.1 - 1), "calls take nearly twice what was told"


def test_no_more_rows_than_some_that_were_seen_cost_more_than_those() -> None:
    rows = RowCosts()
    rows.update(8, 0.8, told=0.7)
    assert max(rows.worst(COSTS)[:9]) == pytest.approx(0.8)


def test_a_call_that_was_slow_once_is_forgiven() -> None:
    rows = RowCosts()
    rows.update(2, 9.0, told=0.1)
    rows.update(2, 0.1, told=0.1)
    assert rows.worst(COSTS)[2] == pytest.approx(0.1)
