"""Momentum decoding: what counts as a repeat, against plain loops, and the text token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from decoding import GREEDY, OPTIONS, PROMPT, plain_text, sampler_for
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import ApproximateContext, method_named
from skipstone.runtime.methods.search.momentum import Momentum, RepeatedNgrams
from skipstone.runtime.sampling import Sampler, SamplingOptions

F = {0: 0, 1: 1, 2: 3, 3: 4, 4: 5, 5: 6}
histories = st.lists(st.integers(0, 3), max_size=20)


def repeated(history: list[int], token_id: int, longest: int = 6) -> int:
    """The slow obvious way: the longest end of the new text that its beginning holds."""
    text, best = [*history, token_id], 0
    for size in range(1, longest + 1):
        runs = [history[start : start + size] for start in range(len(history) - size + 1)]
        if size <= len(text) and text[-size:] in runs:
            best = size
    return best


@given(histories, st.integers(0, 3))
def test_a_repeat_is_as_long_as_the_slow_way_finds_however_the_text_came(history: list[int], token_id: int) -> None:
    grown, whole = RepeatedNgrams(6), RepeatedNgrams(6)
    for end in range(len(history) + 1):
        grown.read(history[:end])
    whole.read(history)
    assert grown.length(history, token_id) == whole.length(history, token_id) == repeated(history, token_id)


def score(chance: float, history: list[int], token_id: int, weight: float) -> float:
    length = repeated(history, token_id)
    return chance - weight * F[length] if length in F else -math.inf


@given(histories, st.integers(0, 1000), st.sampled_from([0.05, 0.2, 1.0]))
def test_a_token_that_would_repeat_gives_way_to_the_best_score_of_the_five_likeliest(
    history: list[int], seed: int, weight: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=9).astype(np.float32) * 2
    chosen = Momentum(Sampler(greedy=True), weight).choose(logits, history)
    if not repeated(history, int(logits.argmax())):
        assert chosen == logits.argmax()
        return
    chances = np.exp(logits.astype(np.float64))
    chances /= chances.sum()
    five = np.argsort(-logits, kind="stable")[:5]
    assert chosen == max(five, key=lambda one: score(float(chances[one]), history, int(one), weight))


def test_where_all_five_would_go_on_with_a_long_repeat_the_likeliest_that_does_not_comes() -> None:
    history = [7, 8, 9, 10, 11]
    text = [token for one in range(5) for token in (*history, one)] + history
    logits = np.array([9, 8, 7, 6, 5, 4, 3], np.float32)
    assert Momentum(Sampler(greedy=True), 0.2).choose(logits, text) == 5


def test_penalties_of_the_sampler_come_first() -> None:
    sampler = Sampler.from_options(SamplingOptions(banned_ids=(0,)), stop_ids=(), num_prompt_tokens=0)
    logits = np.array([9, 8, 7], np.float32)
    assert Momentum(sampler, 0.2).choose(logits, []) == 1
    assert Momentum(sampler, 1.0).choose(logits, [1]) == 2


# The text


def text_of(model: Model, dial: float, options: SamplingOptions = GREEDY) -> list[int]:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    context = ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_for(options),
        setting=dial,
        max_new_tokens=24,
        stop_ids=(),
    )
    for step in method_named("momentum").open(context).steps:
        assert (len(step.token_ids), step.depth) == (1, 4)
    return sequence.token_ids


@pytest.mark.parametrize("options", [options for options in OPTIONS if options.greedy])
def test_at_0_the_text_is_plain_decodings(tiny: Model, options: SamplingOptions) -> None:
    assert text_of(tiny, 0.0, options) == plain_text(tiny, options, 24)


def test_the_text_is_that_of_fresh_sequences_token_by_token(tiny: Model) -> None:
    text, momentum = [*PROMPT], Momentum(Sampler(greedy=True), 0.4)
    for _ in range(24):
        sequence = tiny.new_sequence()
        sequence.append(text)
        text.append(momentum.choose(sequence.extend(Draft.empty())[0], text))
    assert text_of(tiny, 0.4) == text


def test_it_is_greedy_and_says_what_it_promises(tiny: Model) -> None:
    model = LanguageModel(tiny)
    made = model.generate("def f(", decode="momentum", dial=0.2, max_new_tokens=8)
    assert made.stats.approximate == "momentum of 0.2 against repeats: agreement not calibrated"
    with pytest.raises(ConfigError, match=r"decode momentum chooses .* without chance, got temperature 0.7; leave"):
        model.generate("def f(", decode="momentum", dial=0.2, temperature=0.7)
