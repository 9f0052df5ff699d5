"""The sampler: greedy takes the best, a draw follows the softmax, and a seed fixes the token at each position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.runtime.sampling import (
    BannedTokens,
    FrequencyPenalty,
    LocallyTypical,
    LogitBias,
    MinNewTokens,
    MinP,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    SamplingOptions,
    Temperature,
    TopH,
    TopK,
    TopP,
    gumbel,
)
from skipstone.runtime.sampling.own_steps import OwnSteps

PROBABILITIES = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
LOGITS = np.log(PROBABILITIES).astype(np.float32)
NUM_DRAWS = 10_000

tied_rows = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=8).map(
    lambda values: np.array(values, dtype=np.float32)
)


def sampler(**options: Any) -> Sampler:
    return Sampler.from_options(SamplingOptions(**options), stop_ids=(0,), num_prompt_tokens=2)


def draws(chosen: Sampler) -> NDArray[np.int64]:
    return np.array([chosen.choose(LOGITS, range(position)) for position in range(NUM_DRAWS)])


def chi_square(token_ids: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Pearson's statistic; with 4 degrees of freedom above 23.5 once in 10,000 times."""
    expected = probabilities * len(token_ids)
    counts = np.bincount(token_ids, minlength=len(probabilities))
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_over_positions_follow_the_softmax_and_a_wrong_temperature_is_seen(temperature: float) -> None:
    token_ids = draws(sampler(temperature=temperature, seed=1))
    right, wrong = (PROBABILITIES ** (1 / t) for t in (temperature, temperature * 1.25))
    assert chi_square(token_ids, right / right.sum()) < 23.5
    assert chi_square(token_ids, wrong / wrong.sum()) > 23.5


def test_draws_over_seeds_follow_the_softmax() -> None:
    token_ids = np.array([Sampler(seed=seed).choose(LOGITS, [1, 2]) for seed in range(NUM_DRAWS)])
    assert chi_square(token_ids, PROBABILITIES) < 23.5


def test_draws_at_neighbouring_positions_are_independent_and_a_repeated_draw_is_seen() -> None:
    token_ids = draws(Sampler(seed=4))
    joint = np.outer(PROBABILITIES, PROBABILITIES).ravel()
    # 24 degrees of freedom: above 58 once in 10,000 times.
    assert chi_square(token_ids[:-1] * 5 + token_ids[1:], joint) < 58
    assert chi_square(token_ids * 5 + token_ids, joint) > 58


def test_truncated_draws_follow_what_is_left_renormalised() -> None:
    token_ids = draws(sampler(temperature=1.0, top_k=3, seed=2))
    assert set(token_ids) == {0, 1, 2}
    left = PROBABILITIES[:3] / PROBABILITIES[:3].sum()
    # 2 degrees of freedom: above 18.4 once in 10,000 times.
    assert chi_square(token_ids, left) < 18.4


@settings(deadline=None)
@given(tied_rows, st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_a_draw_is_the_argmax_of_logits_plus_noise(row: NDArray[np.float32], seed: int, position: int) -> None:
    totals = row + gumbel(seed, position, np.arange(len(row)))
    assert Sampler(seed=seed).choose(row, range(position)) == int(np.argmax(totals))


@settings(deadline=None)
@given(tied_rows, st.sampled_from([{}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.5}, {"presence_penalty": 1.0}]))
def test_the_law_is_the_softmax_of_the_processed_row(row: NDArray[np.float32], options: dict[str, Any]) -> None:
    chosen, history = sampler(temperature=0.7, **options), [0, 0, 0]
    processed = [float(value) for value in chosen.processed(row, history)]
    weights = [math.exp(value) for value in processed]
    law = chosen.law(row, history)
    assert law.dtype == np.float64
    np.testing.assert_allclose(law, np.array(weights) / math.fsum(weights), rtol=1e-14)
    assert [value > 0 for value in law] == [value > -math.inf for value in processed]


def test_draws_follow_the_law() -> None:
    chosen = sampler(temperature=0.8, min_p=0.15, seed=6)
    law = chosen.law(LOGITS, [])
    assert np.count_nonzero(law) == 4
    # 3 degrees of freedom: above 21.1 once in 10,000 times.
    token_ids = draws(chosen)
    assert token_ids.max() == 3
    assert chi_square(token_ids, law[:4]) < 21.1


@settings(deadline=None)
@given(tied_rows)
def test_the_law_of_a_greedy_sampler_is_certain_of_its_choice(row: NDArray[np.float32]) -> None:
    law = sampler().law(row, [])
    assert law.sum() == 1 and law[sampler().choose(row, [])] == 1


def test_the_law_of_extreme_logits_is_finite() -> None:
    row = np.array([3e38, -3e38, -np.inf, 3e38], dtype=np.float32)
    np.testing.assert_array_equal(Sampler().law(row, []), [0.5, 0, 0, 0.5])


TRUNCATIONS: list[dict[str, Any]] = [
    {"top_k": 2},
    {"top_p": 0.6},
    {"min_p": 0.5},
    {"typical": 0.5},
    {"top_h": 0.6},
    {"banned_ids": (4,)},
]


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_a_truncation_that_keeps_the_drawn_token_does_not_change_it(truncation: dict[str, Any]) -> None:
    num_kept = 0
    for position in range(300):
        free = sampler(temperature=1.0, seed=9)
        cut = sampler(temperature=1.0, seed=9, **truncation)
        drawn = free.choose(LOGITS, range(position))
        if cut.processed(LOGITS, range(position))[drawn] > -np.inf:
            num_kept += 1
            assert cut.choose(LOGITS, range(position)) == drawn
    assert 0 < num_kept < 300


def test_the_same_seed_and_position_give_the_same_token_in_any_order_and_another_seed_another_text() -> None:
    forwards = [Sampler(seed=3).choose(LOGITS, range(position)) for position in range(50)]
    one = Sampler(seed=3)
    backwards = [one.choose(LOGITS, range(position)) for position in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [Sampler(seed=4).choose(LOGITS, range(position)) for position in range(50)]


@settings(deadline=None)
@given(tied_rows)
def test_greedy_takes_the_lowest_id_of_the_largest_logits(row: NDArray[np.float32]) -> None:
    best = min(range(len(row)), key=lambda token_id: (-row[token_id], token_id))
    assert sampler().choose(row, []) == best
    assert Sampler(greedy=True, processors=(Temperature(0.5),)).choose(row, []) == best


def test_the_default_options_are_greedy_without_any_step() -> None:
    assert sampler() == Sampler(greedy=True)


def test_greedy_respects_penalties_and_bans() -> None:
    assert sampler(repetition_penalty=10.0).choose(np.array([3, 2], dtype=np.float32), [0]) == 1
    assert sampler(banned_ids=(0,)).choose(LOGITS, []) == 1
    assert sampler(min_new_tokens=1).choose(LOGITS, [7, 7]) == 1
    assert sampler(min_new_tokens=1).choose(LOGITS, [7, 7, 7]) == 0


EVERY_OPTION: dict[str, Any] = {
    "logit_bias": {1: 0.5},
    "banned_ids": (3,),
    "min_new_tokens": 1,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "no_repeat_ngram": 3,
    "processors": (lambda token_ids, logits: logits,),
    "temperature": 0.8,
    "top_k": 4,
    "typical": 0.95,
    "top_p": 0.9,
    "min_p": 0.05,
    "top_h": 0.9,
}


def test_the_given_logits_and_history_are_never_changed() -> None:
    row, history = LOGITS.copy(), [1, 2, 3]
    row.flags.writeable = False
    for chosen in (sampler(**EVERY_OPTION, seed=1), sampler(), Sampler(seed=1)):
        chosen.choose(row, history)
        chosen.law(row, history)
    np.testing.assert_array_equal(row, LOGITS)
    assert history == [1, 2, 3]


def test_the_steps_run_in_the_documented_order() -> None:
    assert [type(step) for step in sampler(**EVERY_OPTION).processors] == [
        LogitBias,
        BannedTokens,
        MinNewTokens,
        RepetitionPenalty,
        PresencePenalty,
        FrequencyPenalty,
        NoRepeatNgram,
        OwnSteps,
        Temperature,
        TopK,
        LocallyTypical,
        TopP,
        MinP,
        TopH,
    ]


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_reaches_the_sampler_as_one_step(name: str) -> None:
    neutral = {"temperature": 1.0} if name in {"top_k", "typical", "top_p", "min_p", "top_h"} else {}
    assert len(sampler(**neutral, **{name: EVERY_OPTION[name]}).processors) == 1 + len(neutral)


def test_a_user_can_bring_steps_of_their_own() -> None:
    def only_the_last(logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        logits[:-1] = -np.inf
        return logits

    for greedy in (True, False):
        assert Sampler(processors=(only_the_last,), greedy=greedy).choose(LOGITS, []) == 4


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9, "typical": 0.5}])
def test_a_row_with_every_token_banned_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="every token is banned"):
        sampler(**options, banned_ids=(0, 1, 2, 3, 4)).choose(LOGITS, [])
    with pytest.raises(ConfigError, match="every token is banned"):
        sampler(**options, banned_ids=(0, 1, 2, 3, 4)).law(LOGITS, [])
    with pytest.raises(ConfigError, match="every token is banned"):
        sampler(**options).choose(np.full(5, -np.inf, dtype=np.float32), [])


@pytest.mark.parametrize(
    "options", [{}, {"banned_ids": (0,)}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}]
)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(options: dict[str, Any], broken: float) -> None:
    row = LOGITS.copy()
    row[3] = broken
    for ask in (sampler(**options).choose, sampler(**options).law):
        with pytest.raises(SkipstoneError, match=f"the logits hold {broken} for token 3"):
            ask(row, [])


@pytest.mark.parametrize("name", ["top_k", "typical", "top_p", "min_p", "top_h"])
def test_a_truncation_without_a_temperature_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} .* changes nothing at temperature 0.*set --temperature above 0"):
        SamplingOptions(**{name: EVERY_OPTION[name]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": 1.0, "top_k": -1},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "min_p": 1.1},
        {"temperature": 1.0, "typical": 1.1},
        {"temperature": 1.0, "top_h": 0.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.inf},
        {"frequency_penalty": math.nan},
        {"no_repeat_ngram": -1},
        {"logit_bias": {-1: 0.0}},
        {"banned_ids": (-1,)},
        {"min_new_tokens": -1},
        {"seed": -1},
        {"seed": 2**64},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named_with_its_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{list(wrong)[-1]} must be .*, got ."):
        SamplingOptions(**wrong)
