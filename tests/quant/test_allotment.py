"""Choices under a budget: never above it, and close to the best of all."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.quant import Option, allot

COST = st.integers(1, 20).map(float)
MENU = st.lists(st.builds(Option, COST, st.floats(0.01, 10)), min_size=1, max_size=4)


def total(menus: list[list[Option]], chosen: list[int]) -> tuple[float, float]:
    options = [menu[number] for menu, number in zip(menus, chosen, strict=True)]
    return sum(option.cost for option in options), sum(option.loss for option in options)


@settings(max_examples=200, deadline=None)
@given(st.lists(MENU, min_size=1, max_size=5), st.integers(0, 80))
def test_the_budget_is_kept_and_no_single_change_would_be_better(menus: list[list[Option]], budget: int) -> None:
    chosen = allot(menus, budget)
    fitting = [
        found
        for numbers in itertools.product(*map(range, map(len, menus)))
        if (found := total(menus, list(numbers)))[0] <= budget
    ]
    if chosen is None:
        assert not fitting
        return
    cost, loss = total(menus, chosen)
    assert cost <= budget
    for thing, menu in enumerate(menus):
        for number in range(len(menu)):
            other_cost, other_loss = total(menus, [*chosen[:thing], number, *chosen[thing + 1 :]])
            assert other_cost > budget or other_loss >= loss - 1e-9


def test_what_loses_most_gets_the_better_option() -> None:
    menu = [Option(1, 8.0), Option(2, 2.0), Option(3, 1.0)]
    tenfold = [Option(option.cost, 10 * option.loss) for option in menu]
    assert allot([menu, tenfold], 4) == [0, 2]
    assert allot([menu, tenfold], 6) == [2, 2]
    assert allot([menu, tenfold], 1) is None
