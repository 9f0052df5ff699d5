"""Calibration: thresholds keep the agreement that they state, with the stated certainty, and are not too strict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.methods import AGREEMENTS, risk_p_value
from skipstone.runtime.methods.depth import ExitLevels, ExitThresholds, Level, exit_levels, lowest_threshold


def pairs(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidences that are the very chance of agreeing, and whether they did."""
    random = np.random.default_rng(seed)
    confidence = random.random(count)
    return confidence, random.random(count) < confidence


def true_risk(threshold: float) -> float:
    """Return the share of tokens above the threshold that do not agree, under the law of `pairs`."""
    return (1 - threshold) ** 2 / 2


def slow_tail(most: int, count: int, chance: float) -> float:
    return sum(math.comb(count, hits) * chance**hits * (1 - chance) ** (count - hits) for hits in range(most + 1))


# p-values


@pytest.mark.parametrize(("num_wrong", "count", "risk"), [(0, 50, 0.1), (1, 40, 0.2), (7, 100, 0.12), (30, 300, 0.2)])
def test_the_p_value_is_the_smaller_of_hoeffding_and_bentkus(num_wrong: int, count: int, risk: float) -> None:
    rate = num_wrong / count
    kl = (rate * math.log(rate / risk) if rate else 0) + (1 - rate) * math.log((1 - rate) / (1 - risk))
    wanted = min(math.exp(-count * kl), math.e * slow_tail(num_wrong, count, risk))
    assert risk_p_value(num_wrong, count, risk) == pytest.approx(wanted, rel=1e-9)


def test_too_many_wrong_tokens_or_no_risk_allowed_prove_nothing() -> None:
    assert risk_p_value(10, 100, 0.1) == 1.0
    assert risk_p_value(0, 10**6, 0.0) == 1.0
    assert risk_p_value(5000, 100_000, 0.06) < 1e-6, "no overflow with many tokens"


def test_p_values_of_a_risk_that_is_as_large_as_stated_are_rarely_small() -> None:
    random = np.random.default_rng(0)
    wrong = random.binomial(400, 0.05, size=2000)
    assert np.mean([risk_p_value(int(hits), 400, 0.05) <= 0.1 for hits in wrong]) <= 0.1


# Thresholds


def test_the_threshold_holds_on_nearly_all_texts_and_is_close_to_the_best() -> None:
    found = [lowest_threshold(*pairs(3000, seed), min_agreement=0.95, error_rate=0.1) for seed in range(200)]
    risks = [true_risk(threshold) for threshold in found if threshold is not None]
    assert len(risks) == 200
    assert np.mean([risk > 0.05 for risk in risks]) <= 0.1
    assert np.mean(risks) > 0.035


def test_a_looser_test_would_break_the_promise() -> None:
    """The slow twin without a test: the lowest threshold whose measured agreement is enough fails every other time."""
    broken = []
    for seed in range(100):
        confidence, agrees = pairs(3000, seed)
        order = np.argsort(-confidence)
        num_fit = np.flatnonzero(np.cumsum(~agrees[order]) <= 0.05 * 3000)[-1]
        broken.append(true_risk(confidence[order][num_fit]) > 0.05)
    assert np.mean(broken) > 0.3


def test_an_exit_that_always_agrees_makes_nearly_all_tokens_and_one_that_never_does_only_what_may_differ() -> None:
    confidence = np.random.default_rng(1).random(4000)
    always = lowest_threshold(confidence, np.ones(4000, bool), min_agreement=0.99, error_rate=0.05)
    assert always is not None and (confidence > always).mean() > 0.98
    never = lowest_threshold(confidence, np.zeros(4000, bool), min_agreement=0.9, error_rate=0.05)
    assert never is not None and (confidence > never).mean() < 0.1
    assert lowest_threshold(confidence, np.zeros(4000, bool), min_agreement=0.999, error_rate=0.05) is None


def test_tokens_of_one_confidence_leave_together_or_not_at_all() -> None:
    agrees = np.random.default_rng(2).random(4000) < 0.9
    assert lowest_threshold(np.full(4000, 0.5), agrees, min_agreement=0.8, error_rate=0.05) is None
    two = np.repeat([0.2, 0.9], 2000)
    threshold = lowest_threshold(two, agrees | (two > 0.5), min_agreement=0.99, error_rate=0.05)
    assert threshold == 0.2


def test_too_few_tokens_are_never_enough() -> None:
    confidence, agrees = np.random.default_rng(3).random(100), np.ones(100, bool)
    assert lowest_threshold(confidence, agrees, min_agreement=0.99, error_rate=0.05) is None


# Levels


def test_the_levels_of_an_exit_take_the_better_measure_and_grow_stricter() -> None:
    good, agrees = pairs(20_000, 4)
    bad = np.random.default_rng(5).random(20_000)
    found = exit_levels(4, {"top": bad, "gap": good}, agrees, error_rate=0.05)
    assert (found.num_layers, found.agreement) == (4, pytest.approx(0.5, abs=0.02))
    assert [level.agreement for level in found.levels] == [*AGREEMENTS]
    assert {level.metric for level in found.levels if level.agreement >= 0.9} == {"gap"}
    shares = [level.share for level in found.levels]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.4
    for level in found.levels:
        assert level.threshold is not None and level.share == (good > level.threshold).mean()


def test_an_agreement_between_two_levels_gets_the_stricter_one_and_never_is_no_level() -> None:
    levels = tuple(
        Level(agreement=agreement, metric="gap", threshold=threshold, share=0.5)
        for agreement, threshold in ((0.9, 0.2), (0.95, 0.5), (0.99, None))
    )
    known = ExitLevels(num_layers=2, agreement=0.7, levels=levels)
    assert [known.level(wanted) for wanted in (0.5, 0.9, 0.91, 0.95)] == [levels[0], levels[0], levels[1], levels[1]]
    assert [known.level(wanted) for wanted in (0.96, 0.99, 1.0)] == [None, None, None]


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1])
def test_an_error_rate_that_is_none_is_refused(error_rate: float) -> None:
    with pytest.raises(ConfigError, match="error_rate must lie between 0 and 1"):
        ExitThresholds(num_tokens=1, error_rate=error_rate, exits=())
