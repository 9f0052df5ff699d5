"""Items in groups of equal size."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from skipstone.carve.assignment import balanced


def best(costs: np.ndarray) -> float:
    """Try all orders: the slow twin."""
    count, num_groups = costs.shape
    places = np.repeat(np.arange(num_groups), count // num_groups)
    return min(float(costs[list(order), places].sum()) for order in permutations(range(count)))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("num_groups", "more"), [(2, 0), (3, 0.25)])
def test_groups_are_of_equal_size_and_near_the_cheapest(seed: int, num_groups: int, more: float) -> None:
    costs = np.random.default_rng(seed).random((6, num_groups))
    groups = balanced(costs)
    assert np.bincount(groups).tolist() == [6 // num_groups] * num_groups
    assert costs[np.arange(6), groups].sum() <= best(costs) + more + 1e-6


def test_items_that_clearly_belong_together_are_together() -> None:
    centres = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 25))
    costs = 1.0 - np.eye(4)[centres]
    assert np.array_equal(balanced(costs), centres)


def test_equal_costs_give_equal_groups_and_the_same_ones_again() -> None:
    groups = balanced(np.zeros((12, 4)))
    assert np.bincount(groups).tolist() == [3, 3, 3, 3]
    assert np.array_equal(groups, balanced(np.zeros((12, 4))))
