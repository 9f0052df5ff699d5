"""Log-probabilities: the softmax of the unprocessed row, in natural logarithms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.sampling import logprob_of, top_logprobs

rows = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=10)


def softmax_logs(values: list[float]) -> list[float]:
    total = math.fsum(math.exp(value - max(values)) for value in values)
    return [value - max(values) - math.log(total) for value in values]


@settings(deadline=None)
@given(rows)
def test_the_logarithms_are_those_of_the_softmax(values: list[float]) -> None:
    row = np.array(values, dtype=np.float32)
    logs = [logprob_of(row, token_id) for token_id in range(len(values))]
    np.testing.assert_allclose(logs, softmax_logs(values), atol=1e-5)


@settings(deadline=None)
@given(rows, st.integers(0, 12))
def test_the_best_come_first_and_equal_ones_by_id(values: list[float], num: int) -> None:
    row = np.array(values, dtype=np.float32)
    order = sorted(range(len(values)), key=lambda token_id: (-values[token_id], token_id))
    top = top_logprobs(row, num)
    assert [token_id for token_id, _ in top] == order[:num]
    assert [log for _, log in top] == [logprob_of(row, token_id) for token_id, _ in top]


def test_impossible_tokens_are_left_out() -> None:
    row = np.array([0, -np.inf, 0], dtype=np.float32)
    assert [token_id for token_id, _ in top_logprobs(row, 3)] == [0, 2]
    assert logprob_of(row, 1) == -math.inf
    assert logprob_of(row, 0) == pytest.approx(-math.log(2))


def test_a_large_vocabulary_sums_to_one() -> None:
    row = (np.random.default_rng(0).normal(size=150_000) * 3).astype(np.float32)
    assert math.fsum(math.exp(log) for _, log in top_logprobs(row, 150_000)) == pytest.approx(1, abs=1e-6)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        top_logprobs(np.zeros(3, dtype=np.float32), -1)
