"""How often guesses are right: exact numbers for the prior, and for what is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.runtime.decoding import Acceptance


def updated(acceptance: Acceptance, outcomes: list[bool], *, level: int = 0) -> float:
    for accepted in outcomes:
        acceptance.update(level, accepted=accepted)
    return acceptance.chance(level)


def test_a_level_that_was_never_tried_has_the_chance_of_its_prior() -> None:
    acceptance = Acceptance(lambda level: {3: 0.9}.get(level, 0.2))
    assert (acceptance.chance(3), acceptance.chance(7)) == (0.9, 0.2)


def test_levels_learn_apart() -> None:
    acceptance = Acceptance(lambda level: 0.5)
    assert updated(acceptance, [True] * 9, level=1) > 0.8
    assert acceptance.chance(2) == 0.5


@pytest.mark.parametrize("weight", [1.0, 4.0, 10.0])
def test_the_prior_counts_as_so_many_trials(weight: float) -> None:
    # So long a half-life forgets nothing.
    acceptance = Acceptance(lambda level: 0.25, prior_weight=weight, half_life=1e12)
    assert updated(acceptance, [True] * 3) == pytest.approx((0.25 * weight + 3) / (weight + 3))
    assert updated(acceptance, [False] * 5) == pytest.approx((0.25 * weight + 3) / (weight + 8))


@pytest.mark.parametrize("half_life", [1, 10, 50])
def test_after_a_half_life_what_was_seen_before_counts_half(half_life: int) -> None:
    acceptance = Acceptance(lambda level: 1.0, prior_weight=4.0, half_life=half_life)
    keep = 0.5 ** (1 / half_life)
    trials = 4 * 0.5 + sum(keep**age for age in range(half_life))
    assert updated(acceptance, [False] * half_life) == pytest.approx(4 * 0.5 / trials)


def test_the_defaults_are_four_trials_of_prior_and_a_half_life_of_fifty() -> None:
    given, stated = (Acceptance(lambda level: 0.6), Acceptance(lambda level: 0.6, prior_weight=4.0, half_life=50.0))
    outcomes = [True, False, False, True, False] * 9
    assert updated(given, outcomes) == updated(stated, outcomes)


@given(prior=st.floats(0, 1), outcomes=st.lists(st.booleans(), max_size=80), half_life=st.floats(1, 100))
def test_the_chance_is_the_mean_of_all_trials_weighted_by_age(
    prior: float, outcomes: list[bool], half_life: float
) -> None:
    acceptance = Acceptance(lambda level: prior, half_life=half_life)
    weights = [0.5 ** (age / half_life) for age in range(len(outcomes), -1, -1)]  # the prior is the oldest
    trials = 4 * weights[0] + sum(weights[1:])
    hits = prior * 4 * weights[0] + sum(weight for weight, hit in zip(weights[1:], outcomes, strict=True) if hit)
    assert updated(acceptance, outcomes) == pytest.approx(hits / trials)
    assert 0 <= acceptance.chance(0) <= 1
