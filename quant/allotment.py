"""What each of several things gets under one budget: options with a cost and a loss, with the least loss in all.

Source: BAQ's warm start and EvoPress's exchanges (Zhang et al., 2025; Sieberling et al., 2024), for a table of options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Option", "allot"]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a thing: what it costs, and what it loses."""

    cost: float
    loss: float


def allot(menus: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
    """Return the number of the option for each thing, so that all cost at most `budget`; None where that cannot be.

    First the steps between the options that no mixture of others beats are taken, the most gain for its cost first;
    then options are exchanged, one thing's or two things' at a time, while the loss falls.
    """
    chosen = [min(range(len(menu)), key=lambda number: (menu[number].cost, menu[number].loss)) for menu in menus]
    left = budget - sum(menu[number].cost for menu, number in zip(menus, chosen, strict=True))
    if left < 0:
        return None
    for _, thing, number in sorted(_steps(menus)):
        price = menus[thing][number].cost - menus[thing][chosen[thing]].cost
        if price <= left and menus[thing][number].loss < menus[thing][chosen[thing]].loss:
            chosen[thing], left = number, left - price
    while (better := _exchange(menus, chosen, left)) is not None:
        for thing, number in better.items():
            left -= menus[thing][number].cost - menus[thing][chosen[thing]].cost
            chosen[thing] = number
    return chosen


def _steps(menus: Sequence[Sequence[Option]]) -> list[tuple[float, int, int]]:
    """Return (minus the gain by cost, thing, option) of each step up along the lower hull of its menu."""
    steps = []
    for thing, menu in enumerate(menus):
        at = min(range(len(menu)), key=lambda number: (menu[number].cost, menu[number].loss))
        while True:
            slopes = [
                ((option.loss - menu[at].loss) / (option.cost - menu[at].cost), thing, number)
                for number, option in enumerate(menu)
                if option.cost > menu[at].cost and option.loss < menu[at].loss
            ]
            if not slopes:
                break
            steps.append(min(slopes))
            at = steps[-1][2]
    return steps


def _exchange(menus: Sequence[Sequence[Option]], chosen: Sequence[int], left: float) -> dict[int, int] | None:
    """Return the change of one or two things that lowers the loss most, by thing; None where none does."""
    changes = [
        (option.loss - menu[at].loss, option.cost - menu[at].cost, thing, number)
        for thing, (menu, at) in enumerate(zip(menus, chosen, strict=True))
        for number, option in enumerate(menu)
        if number != at
    ]
    best: tuple[float, dict[int, int] | None] = (-1e-12 * _total_loss(menus, chosen), None)
    gains = [change for change in changes if change[0] < 0]
    for gain, price, thing, number in gains:
        if price <= left:
            best = min(best, (gain, {thing: number}), key=lambda pair: pair[0])
    savings = sorted(change for change in changes if change[1] < 0)
    for gain, price, thing, number in gains:
        for loss, saving, other, other_number in savings:
            if gain + loss >= best[0]:
                break
            if other != thing and price + saving <= left:
                best = (gain + loss, {thing: number, other: other_number})
    return best[1]


def _total_loss(menus: Sequence[Sequence[Option]], chosen: Sequence[int]) -> float:
    return sum(menu[number].loss for menu, number in zip(menus, chosen, strict=True))
