"""Truncation: each rule keeps what its definition says, shown against a full sort and plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.sampling import LocallyTypical, LogitProcessor, MinP, Temperature, TopH, TopK, TopP

Row = NDArray[np.float32]

# Eighths over a small range make many ties; far values and removed tokens reach the wider prefixes.
values = st.one_of(st.integers(-24, 24).map(lambda eighths: eighths / 8), st.sampled_from([-300.0, 40.0, -math.inf]))
rows = (
    st.lists(values, min_size=1, max_size=12)
    .filter(lambda row: max(row) > -math.inf)
    .map(lambda row: np.array(row, dtype=np.float32))
)
masses = st.one_of(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.floats(0.01, 1.0))
RULES = [TopK(1), TopP(0.5), MinP(0.3), LocallyTypical(0.5), TopH(0.4)]


def kept(processor: LogitProcessor, row: Row) -> list[int]:
    """The ids that are left; the rest of the contract is checked on the way."""
    after = processor(row.copy(), [])
    assert after.dtype == np.float32 and after.shape == row.shape
    ids = [index for index, value in enumerate(after) if value > -np.inf]
    np.testing.assert_array_equal(after[ids], row[ids])
    return ids


def weights_of(row: Row) -> list[float]:
    """Probabilities up to a factor, rounded to float32 as the fast way rounds them."""
    return [float(weight) for weight in np.exp(row - row.max())]


def possible(row: Row) -> list[int]:
    return [index for index, value in enumerate(row) if value > -np.inf]


def best_first(row: Row) -> list[int]:
    return sorted(possible(row), key=lambda index: (-row[index], index))


def entropy(weights: list[float]) -> float:
    total = math.fsum(weights)
    return -math.fsum(weight / total * math.log(weight / total) for weight in weights if weight > 0)


def fewest(order: list[int], weights: list[float], mass: float) -> list[int]:
    total = float(np.array(weights, dtype=np.float32).sum(dtype=np.float64))
    held = 0.0
    for num, index in enumerate(order, start=1):
        held += weights[index]
        if held >= mass * total:
            return sorted(order[:num])
    return sorted(order)


@settings(deadline=None)
@given(rows, st.integers(1, 14))
def test_top_k_keeps_the_first_k_of_a_full_sort(row: Row, k: int) -> None:
    assert kept(TopK(k), row) == sorted(best_first(row)[:k])


@settings(deadline=None)
@given(rows, masses)
def test_top_p_keeps_the_shortest_beginning_of_a_full_sort(row: Row, p: float) -> None:
    assert kept(TopP(p), row) == fewest(best_first(row), weights_of(row), p)


@settings(deadline=None)
@given(rows, st.floats(0.001, 1.0))
def test_min_p_compares_with_the_most_likely_token(row: Row, p: float) -> None:
    limit = np.float32(float(row.max()) + math.log(p))
    assert kept(MinP(p), row) == [index for index in possible(row) if row[index] >= limit]


@settings(deadline=None)
@given(rows, masses)
def test_locally_typical_keeps_the_tokens_whose_surprise_is_nearest_to_the_entropy(row: Row, mass: float) -> None:
    weights = weights_of(row)
    log_total = float(row.max()) + math.log(sum(weights))
    # Rounding may swap tokens on either side of the entropy, so distances are compared to nine digits.
    distance = [round(abs(log_total - float(value) - entropy(weights)), 9) for value in row]
    ids = kept(LocallyTypical(mass), row)
    worst = max(distance[index] for index in ids)
    assert all(index in ids for index in possible(row) if distance[index] < worst)
    total = math.fsum(weights)
    held = math.fsum(weights[index] for index in ids)
    last = min(weights[index] for index in ids if distance[index] == worst)
    assert held >= mass * total * (1 - 1e-9)
    assert held - last < mass * total * (1 + 1e-9) or len(ids) == 1


@settings(deadline=None)
@given(rows, st.floats(0.01, 1.0))
def test_top_h_keeps_the_most_tokens_whose_own_entropy_is_within_the_share(row: Row, alpha: float) -> None:
    order, weights = best_first(row), weights_of(row)
    entropies = [entropy([weights[index] for index in order[:num]]) for num in range(1, len(order) + 1)]
    limit = alpha * entropy(weights)
    ids = kept(TopH(alpha), row)
    assert ids == sorted(order[: len(ids)])
    assert entropies[len(ids) - 1] <= limit + 1e-9
    more = [num for num in range(len(ids) + 1, len(order) + 1) if weights[order[num - 1]] > 0]
    assert all(entropies[num - 1] > limit - 1e-9 for num in more)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (lambda row: TopK(1000), lambda row: best_first(row)[:1000]),
        (lambda row: TopP(0.9), lambda row: fewest(best_first(row), weights_of(row), 0.9)),
    ],
    ids=["top_k", "top_p"],
)
def test_a_large_vocabulary_gives_the_result_of_the_full_sort(
    scale: float, rule: Callable[[Row], LogitProcessor], order: Callable[[Row], list[int]]
) -> None:
    # Rounded to hundredths, so that ties straddle the borders of the partial sorts.
    row = (np.random.default_rng(3).normal(size=20_000) * scale).round(2).astype(np.float32)
    assert kept(rule(row), row) == sorted(order(row))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_keeps_one_token_of_a_certain_row_and_of_a_row_with_one_token_left(rule: LogitProcessor) -> None:
    assert kept(rule, np.array([-200, 0, -300], dtype=np.float32)) == [1]
    assert kept(rule, np.array([-np.inf, -np.inf, 7], dtype=np.float32)) == [2]
    assert kept(rule, np.array([7], dtype=np.float32)) == [0]


@pytest.mark.parametrize("rule", [TopK(1), TopP(0.1)], ids=repr)
def test_of_equal_tokens_the_lower_id_stays(rule: LogitProcessor) -> None:
    assert kept(rule, np.array([0, 1, 1, 1, 1], dtype=np.float32)) == [1]


@pytest.mark.parametrize("rule", [TopP(0.5), LocallyTypical(0.5)], ids=repr)
def test_a_mass_that_is_reached_exactly_needs_no_further_token(rule: LogitProcessor) -> None:
    assert kept(rule, np.zeros(4, dtype=np.float32)) == [0, 1]


@settings(deadline=None)
@given(rows, st.floats(0.001, 1.0), st.integers(-64, 64))
def test_min_p_does_not_see_a_factor_on_all_probabilities(row: Row, p: float, eighths: int) -> None:
    # A threshold that lies on a logit may fall either way after rounding.
    near = [value for value in row if abs(float(value) - float(row.max()) - math.log(p)) < 1e-4]
    if not near:
        assert kept(MinP(p), row) == kept(MinP(p), row + np.float32(eighths / 8))


def test_locally_typical_removes_the_most_likely_token_when_it_is_too_expected() -> None:
    # Entropy 1.50 nats: the surprise 1.90 of the small ones is nearer to it than the 0.92 of the large one.
    row = np.log(np.array([0.4, 0.15, 0.15, 0.15, 0.15], dtype=np.float32))
    assert 0 not in kept(LocallyTypical(0.2), row)
    assert kept(LocallyTypical(1.0), row)[0] == 0


def test_top_h_of_a_flat_row_keeps_the_share_of_the_entropy_and_no_more_than_the_limit() -> None:
    # log(k) <= 0.5 log(256) means k <= 16.
    flat = np.zeros(256, dtype=np.float32)
    assert kept(TopH(0.501), flat) == list(range(16))
    assert kept(TopH(0.501, limit=5), flat) == list(range(5))


@settings(deadline=None)
@given(rows, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_more_entropy_never_takes_a_token_from_top_h_and_all_of_it_keeps_all(row: Row, one: float, two: float) -> None:
    lower, higher = sorted((one, two))
    assert {*kept(TopH(lower), row)} <= {*kept(TopH(higher), row)}
    assert best_first(row)[0] in kept(TopH(lower), row)


def test_behind_another_rule_top_h_sees_the_entropy_of_what_that_left() -> None:
    """Of eight equal tokens four are left, whose entropy is log 4; a bit more than half of that is that of two."""
    flat = np.zeros(8, dtype=np.float32)
    assert kept(TopH(0.51), TopK(4)(flat.copy(), [])) == [0, 1]
    assert kept(TopK(4), TopH(0.7)(flat.copy(), [])) == [0, 1, 2, 3]


def test_temperature_divides_the_logits() -> None:
    row = np.array([1, -2, -np.inf], dtype=np.float32)
    np.testing.assert_array_equal(Temperature(0.5)(row.copy(), []), np.array([2, -4, -np.inf], dtype=np.float32))
    np.testing.assert_array_equal(Temperature(1.0)(row.copy(), []), row)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Temperature(0.0), "temperature must be 0 for greedy"),
        (lambda: Temperature(math.inf), "temperature must be .* got inf"),
        (lambda: TopK(0), "top_k must be at least 1, or 0 for off, got 0"),
        (lambda: TopP(1.5), "top_p must be above 0 and at most 1.* got 1.5"),
        (lambda: MinP(math.nan), "min_p must be .* got nan"),
        (lambda: LocallyTypical(0.0), "typical must be"),
        (lambda: TopH(0.0), "top_h must be"),
        (lambda: TopH(0.4, limit=0), "limit of top_h must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(make: Callable[[], LogitProcessor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
