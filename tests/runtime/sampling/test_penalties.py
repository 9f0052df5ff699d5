"""Penalties, biases and bans: which tokens move, by how much, and for which part of the history."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.sampling import (
    BannedTokens,
    FrequencyPenalty,
    LogitBias,
    LogitProcessor,
    MinNewTokens,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)

V = 6
histories = st.lists(st.integers(0, V - 1), max_size=20)


def row() -> NDArray[np.float32]:
    return np.array([2, -2, 0, 4, -4, 1], dtype=np.float32)


def banned(processor: LogitProcessor, history: list[int]) -> set[int]:
    after = processor(row(), history)
    allowed = np.isfinite(after)
    np.testing.assert_array_equal(after[allowed], row()[allowed])
    return {int(token_id) for token_id in np.flatnonzero(~allowed)}


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits_once_for_each_seen_token() -> None:
    after = RepetitionPenalty(2.0)(row(), [0, 1, 1, 0, 0])
    assert after.tolist() == [1, -4, 0, 4, -4, 1]


def test_a_repetition_penalty_below_one_rewards() -> None:
    after = RepetitionPenalty(0.5)(row(), [0, 1])
    assert after.tolist() == [4, -1, 0, 4, -4, 1]


def test_presence_and_frequency_count_the_answer_alone() -> None:
    history = [3, 3, 0, 0, 1]
    assert PresencePenalty(0.5, 2)(row(), history).tolist() == [1.5, -2.5, 0, 4, -4, 1]
    assert FrequencyPenalty(0.5, 2)(row(), history).tolist() == [1, -2.5, 0, 4, -4, 1]


@pytest.mark.parametrize("penalty", [RepetitionPenalty(2.0), PresencePenalty(1.0, 0), FrequencyPenalty(1.0, 0)])
def test_an_empty_history_changes_nothing_and_a_removed_token_stays_removed(penalty: LogitProcessor) -> None:
    np.testing.assert_array_equal(penalty(row(), []), row())
    without = row()
    without[3] = -np.inf
    assert penalty(without, [3, 3])[3] == -np.inf


def test_the_prompt_without_an_answer_is_not_penalised_for_presence_or_frequency() -> None:
    for penalty in (PresencePenalty(1.0, 3), FrequencyPenalty(1.0, 3)):
        np.testing.assert_array_equal(penalty(row(), [0, 1, 2]), row())


@settings(deadline=None)
@given(histories, st.integers(1, 5))
def test_no_repeat_bans_exactly_the_tokens_that_would_complete_an_old_run(history: list[int], size: int) -> None:
    runs = {tuple(history[start : start + size]) for start in range(len(history) - size + 1)}
    tail = tuple(history[len(history) - size + 1 :])
    expected = {token_id for token_id in range(V) if len(tail) == size - 1 and (*tail, token_id) in runs}
    assert banned(NoRepeatNgram(size), history) == expected


def test_no_repeat_looks_at_prompt_and_answer() -> None:
    assert banned(NoRepeatNgram(3), [1, 2, 3, 5, 1, 2]) == {3}


def test_a_bias_is_added_to_its_tokens() -> None:
    assert LogitBias({0: 1.5, 5: -100.0})(row(), []).tolist() == [3.5, -2, 0, 4, -4, -99]


def test_banned_tokens_are_removed() -> None:
    assert banned(BannedTokens((1, 4)), []) == {1, 4}
    assert banned(BannedTokens(()), []) == set()


def test_stop_tokens_are_banned_until_the_answer_is_long_enough() -> None:
    at_least_two = MinNewTokens(2, {3, 5}, num_prompt_tokens=3)
    assert banned(at_least_two, [0, 0, 0]) == {3, 5}
    assert banned(at_least_two, [0, 0, 0, 0]) == {3, 5}
    assert banned(at_least_two, [0, 0, 0, 0, 0]) == set()


@pytest.mark.parametrize("make", [lambda ids: LogitBias(dict.fromkeys(ids, 1.0)), BannedTokens])
def test_a_token_outside_the_vocabulary_is_refused(make: Callable[[list[int]], LogitProcessor]) -> None:
    make([V - 1])(row(), [])
    with pytest.raises(ConfigError, match="names token 6, but the last token of the model is 5"):
        make([0, V])(row(), [])
    with pytest.raises(ConfigError, match="at least 0"):
        make([-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepetitionPenalty(0.0), "repetition_penalty must be above 0"),
        (lambda: RepetitionPenalty(math.nan), "repetition_penalty must be"),
        (lambda: PresencePenalty(math.inf, 0), "presence_penalty must be a finite number, got inf"),
        (lambda: FrequencyPenalty(math.nan, 0), "frequency_penalty must be a finite number, got nan"),
        (lambda: NoRepeatNgram(-1), "no_repeat_ngram must be at least 1"),
        (lambda: LogitBias({1: math.inf}), "logit_bias must be .*; banned_ids"),
        (lambda: MinNewTokens(-1, (), 0), "min_new_tokens must be at least 0, got -1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(make: Callable[[], LogitProcessor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
