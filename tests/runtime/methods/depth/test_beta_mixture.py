"""Two Beta laws tell from which confidence a guess is believed: hand-computed numbers, and what holds for any pairs."""

from __future__ import annotations

import warnings
from math import nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.methods.depth import (
    GRID,
    LEAST_PAIRS,
    WIDE_GRID,
    Beta,
    BetaMixture,
    decayed,
    fit_beta,
    fit_mixture,
)

RIGHT = np.array([0.9, 0.8, 0.95, 0.7, 0.99, 0.85])
WRONG = np.array([0.1, 0.3, 0.5, 0.2, 0.6, 0.4])
SHARES = st.floats(0.0, 1.0)
LAWS = st.builds(Beta, st.floats(0.05, 50), st.floats(0.05, 50))
MIXTURES = st.builds(BetaMixture, LAWS, LAWS, SHARES)


def even(confidences: NDArray[np.float64]) -> Beta:
    return fit_beta(confidences, np.ones(len(confidences)))


def test_the_method_of_moments_gives_the_numbers_computed_by_hand() -> None:
    right, wrong = even(RIGHT), even(WRONG)
    assert (right.a, right.b) == (pytest.approx(10.0061, abs=1e-4), pytest.approx(1.5616, abs=1e-4))
    assert (wrong.a, wrong.b) == (pytest.approx(2.38, abs=1e-4), pytest.approx(4.42, abs=1e-4))


def test_the_chances_and_the_threshold_are_those_computed_by_hand() -> None:
    mixture = BetaMixture(even(RIGHT), even(WRONG))
    chances = mixture.chances(np.asarray(GRID))
    wanted = [0.0003, 0.0019, 0.0094, 0.0388, 0.1364, 0.3728, 0.6936, 0.9028, 0.9787, 0.9972]
    np.testing.assert_allclose(chances, wanted, atol=5e-5)
    assert mixture.threshold(0.4) == pytest.approx(0.70)


@pytest.mark.parametrize(("place", "wanted"), [(0, 0.90000), (1, 0.89723), (32, 0.84311), (128, 0.81165)])
def test_the_decayed_threshold_is_that_computed_by_hand(place: int, wanted: float) -> None:
    assert decayed(0.9, place, 128, decay=4.0) == pytest.approx(wanted, abs=5e-6)


@given(SHARES, st.integers(1, 500))
def test_a_decayed_threshold_falls_and_stays_between_nine_tenths_and_all(threshold: float, num_places: int) -> None:
    found = [decayed(threshold, place, num_places) for place in range(num_places)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(threshold) and 0.9 * threshold <= found[-1] <= 1


def test_weights_count_like_repeats() -> None:
    weighted = fit_beta(RIGHT, np.array([1.0, 2, 0, 3, 1, 0]))
    repeated = even(np.repeat(RIGHT, [1, 2, 0, 3, 1, 0]))
    assert (weighted.a, weighted.b) == (pytest.approx(repeated.a), pytest.approx(repeated.b))


@given(LAWS)
@settings(max_examples=30)
def test_a_law_is_found_again_from_its_own_confidences(law: Beta) -> None:
    drawn = np.random.default_rng(0).beta(law.a, law.b, size=20_000)
    assert even(drawn).mean == pytest.approx(law.mean, abs=0.02)


def test_the_density_of_a_law_has_the_area_1() -> None:
    points = (np.arange(10_000) + 0.5) / 10_000
    for law in (Beta(1.0, 1.0), Beta(10.0, 1.5616), Beta(2.38, 4.42)):
        assert np.exp(law.log_density(points)).mean() == pytest.approx(1.0, abs=1e-3)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_any_confidences_have_a_law_without_a_warning(confidences: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law = even(np.asarray(confidences))
    assert law.mean == pytest.approx(np.clip(confidences, 1e-4, 1 - 1e-4).mean(), abs=1e-9)


def test_no_confidence_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="got none"):
        fit_beta(RIGHT, np.zeros(len(RIGHT)))
    with pytest.raises(ConfigError, match=r"two positive numbers, got 0\.0 and 1\.0"):
        Beta(0.0, 1.0)


# Thresholds


@given(MIXTURES, SHARES, st.booleans())
def test_a_threshold_is_a_point_of_the_grid_from_which_on_all_have_the_chance(
    mixture: BetaMixture, chance: float, by_share: bool
) -> None:
    found = mixture.threshold(chance, grid=WIDE_GRID, by_share=by_share)
    chances = mixture.chances(np.asarray(WIDE_GRID), by_share=by_share)
    first = len(WIDE_GRID) if found is None else WIDE_GRID.index(found)
    assert (chances[first:] > chance).all()
    assert first == 0 or chances[first - 1] <= chance


@given(MIXTURES, SHARES, SHARES, st.booleans())
def test_a_higher_chance_never_has_a_lower_threshold(
    mixture: BetaMixture, one: float, other: float, by_share: bool
) -> None:
    low, high = (mixture.threshold(chance, grid=WIDE_GRID, by_share=by_share) or 2.0 for chance in sorted((one, other)))
    assert low <= high


@given(MIXTURES, st.booleans())
def test_chances_are_numbers_between_0_and_1(mixture: BetaMixture, by_share: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chances = mixture.chances(np.array([0.0, 1e-9, 0.3, 0.9, nextafter(1, 0), 1.0]), by_share=by_share)
    assert np.isfinite(chances).all() and (chances >= 0).all() and (chances <= 1).all()


@given(LAWS, LAWS)
def test_more_right_guesses_make_a_confidence_worth_more(right: Beta, wrong: Beta) -> None:
    points = np.asarray(WIDE_GRID)
    few, even_share, many = (
        BetaMixture(right, wrong, share).chances(points, by_share=True) for share in (0.1, 0.5, 0.9)
    )
    assert (few <= even_share).all() and (even_share <= many).all()
    np.testing.assert_allclose(even_share, BetaMixture(right, wrong, 0.9).chances(points))


def test_nothing_is_believed_where_wrong_guesses_are_the_surer_ones() -> None:
    assert BetaMixture(even(WRONG), even(RIGHT)).threshold(0.4, grid=WIDE_GRID) is None


def test_chances_near_1_need_the_wide_grid() -> None:
    mixture = BetaMixture(even(RIGHT), even(WRONG))
    assert mixture.threshold(0.999) is None
    found = mixture.threshold(0.999, grid=WIDE_GRID)
    assert found is not None and found > GRID[-1]
    assert mixture.threshold(1.0, grid=WIDE_GRID) is None
    assert {*GRID} < {*WIDE_GRID} and [*WIDE_GRID] == sorted(WIDE_GRID)


# Pairs


def pairs_of(num_right: int, num_wrong: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidences like those above, and which are right."""
    random = np.random.default_rng(1)
    confidences = np.concatenate([random.beta(6, 2, num_right), random.beta(2, 5, num_wrong)])
    return confidences, np.arange(num_right + num_wrong) < num_right


@pytest.mark.parametrize(
    ("num_right", "num_wrong"), [(LEAST_PAIRS - 1, 500), (500, LEAST_PAIRS - 1), (0, 500), (500, 0), (0, 0)]
)
def test_too_few_pairs_of_a_kind_tell_nothing(num_right: int, num_wrong: int) -> None:
    assert fit_mixture(*pairs_of(num_right, num_wrong)) is None


def test_pairs_tell_the_chances_that_they_were_drawn_with() -> None:
    confidences, right = pairs_of(3000, 1000)
    mixture = fit_mixture(confidences, right)
    assert mixture is not None and mixture.share == 0.75
    for low in (0.3, 0.4, 0.5, 0.6):
        near = (low <= confidences) & (confidences < low + 0.1)
        found = mixture.chances(np.array([low + 0.05]), by_share=True)[0]
        assert found == pytest.approx(right[near].mean(), abs=0.06)


def test_pairs_that_are_all_alike_have_a_threshold_too() -> None:
    mixture = fit_mixture(np.array([1.0] * 30 + [0.0] * 30), np.array([True] * 30 + [False] * 30))
    assert mixture is not None
    assert 0.3 <= (mixture.threshold(0.4) or 2.0) <= 0.9
