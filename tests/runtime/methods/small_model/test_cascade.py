"""The cascade: which answers of the little model stand, when it may stop early, and who writes the text then."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, plain_text, sampler_for
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import ApproximateContext, method_named
from skipstone.runtime.methods.small_model import Deferral, chow_quantile
from skipstone.runtime.sampling import SamplingOptions, logprob_of

LARGE, LITTLE = 4, 1  # layers
FED = list[tuple[int, ...]]

logprobs_strategy = st.lists(st.floats(-12, 0), min_size=1, max_size=40)
dials = st.floats(0, 1)


@pytest.fixture(scope="session")
def pair(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    return Model.open(make_bundle(make_checkpoint(), drafter=make_checkpoint(num_hidden_layers=LITTLE)))


def context_of(
    model: Model,
    dial: float,
    options: SamplingOptions = GREEDY,
    *,
    num_tokens: int = 24,
    stop_ids: Collection[int] = (),
) -> ApproximateContext:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    return ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_for(options, stop_ids),
        setting=dial,
        max_new_tokens=num_tokens,
        stop_ids=stop_ids,
    )


def written(model: Model, dial: float, options: SamplingOptions = GREEDY, **changes: Any) -> list[Step]:
    """Return the steps; checks what holds for any dial."""
    context, made, steps = context_of(model, dial, options, **changes), list(PROMPT), []
    for step in method_named("cascade").open(context).steps:
        context.sequence.check()
        made += step.token_ids
        assert context.sequence.token_ids == made
        assert (step.num_drafted, step.num_accepted, step.logits.shape) == (0, 0, (1, 307))
        steps.append(step)
    assert len({step.depth for step in steps}) == 1, "one model writes the whole text"
    return steps


def tokens(steps: list[Step]) -> list[int]:
    return [token_id for step in steps for token_id in step.token_ids]


def drafter_of(model: Model) -> Model:
    assert model.draft_model is not None
    return model.draft_model


def score_of(model: Model, options: SamplingOptions = GREEDY, num_tokens: int = 24) -> float:
    """Return the probability below which the dial lets the little model's answer stand, the slow way."""
    little, logprobs = drafter_of(model), []
    text = plain_text(little, options, num_tokens)
    for place in range(len(PROMPT), len(text)):
        sequence = little.new_sequence()
        sequence.append(text[:place])
        logprobs.append(logprob_of(sequence.extend(Draft.empty())[0], text[place]))
    return float(np.exp(chow_quantile(logprobs, 0.1)))


# Which answers stand


def test_the_quantile_of_log_probabilities_is_interpolated() -> None:
    logprobs = (-0.1, -0.2, -3.0, -0.3)
    assert chow_quantile(logprobs, 0.0) == -3.0
    assert chow_quantile(logprobs, 0.5) == pytest.approx(-0.25)
    assert chow_quantile(logprobs, 0.1) == pytest.approx(-3.0 + 0.3 * 2.7)
    assert chow_quantile([-0.7], 0.1) == -0.7


@given(logprobs=logprobs_strategy, pair=st.tuples(dials, dials))
def test_an_answer_that_stands_stands_at_every_looser_dial(logprobs: list[float], pair: tuple[float, float]) -> None:
    loose, strict = sorted(pair)
    assert Deferral(dial=loose).stands(logprobs) or not Deferral(dial=strict).stands(logprobs)


@given(logprobs=logprobs_strategy)
def test_at_1_no_answer_stands_and_at_0_every_one(logprobs: list[float]) -> None:
    assert not Deferral(dial=1.0).stands(logprobs)
    assert Deferral(dial=0.0).stands(logprobs)


@given(logprobs=logprobs_strategy, dial=dials, more=st.integers(0, 20))
def test_who_stops_early_could_not_have_stood(logprobs: list[float], dial: float, more: int) -> None:
    deferral, most = Deferral(dial=dial), len(logprobs) + more
    may = [deferral.may_stand(logprobs[:end], most) for end in range(len(logprobs) + 1)]
    assert all(may) or not deferral.stands(logprobs)
    assert may == sorted(may, reverse=True), "what cannot stand any more never can again"
    if not more:
        assert may[-1] == deferral.stands(logprobs)


# Who writes


@pytest.mark.parametrize("options", OPTIONS)
def test_at_dial_1_the_large_model_writes_and_the_little_one_never_runs(
    pair: Model, options: SamplingOptions, fed: FED
) -> None:
    steps = written(pair, 1.0, options)
    assert fed == [(1, len(PROMPT)), *[(1, 1)] * 23]
    assert [*PROMPT, *tokens(steps)] == plain_text(pair, options, 24)
    assert {step.depth for step in steps} == {LARGE}


@pytest.mark.parametrize("options", OPTIONS)
def test_at_dial_0_the_little_model_writes_and_the_large_one_never_runs(
    pair: Model, options: SamplingOptions, fed: FED
) -> None:
    steps = written(pair, 0.0, options)
    assert fed == [(1, len(PROMPT)), *[(1, 1)] * 23]
    assert [*PROMPT, *tokens(steps)] == plain_text(drafter_of(pair), options, 24)
    assert {step.depth for step in steps} == {LITTLE}


@pytest.mark.parametrize("options", OPTIONS)
def test_the_score_of_the_answer_decides_by_the_raw_logits(pair: Model, options: SamplingOptions) -> None:
    score = score_of(pair, options)
    below, above = written(pair, score * 0.999, options), written(pair, score * 1.001, options)
    assert [*PROMPT, *tokens(below)] == plain_text(drafter_of(pair), options, 24)
    assert [*PROMPT, *tokens(above)] == plain_text(pair, options, 24)
    assert (below[0].depth, above[0].depth) == (LITTLE, LARGE)


def test_the_little_model_stops_as_soon_as_its_answer_cannot_stand(pair: Model, fed: FED) -> None:
    written(pair, 0.999, num_tokens=40)
    num_large = 40
    assert 1 <= len(fed) - num_large < 12


def test_the_logits_of_the_little_models_tokens_are_its_own(pair: Model) -> None:
    text = list(PROMPT)
    for step in written(pair, 0.0):
        sequence = drafter_of(pair).new_sequence()
        sequence.append(text)
        np.testing.assert_allclose(step.logits, sequence.extend(Draft.empty()), atol=1e-4)
        text += step.token_ids


@pytest.mark.parametrize("dial", [0.0, 1.0])
def test_a_stop_token_ends_the_text_whoever_writes_it(pair: Model, dial: float) -> None:
    whole = tokens(written(pair, dial))
    for stop_id in (whole[0], whole[15]):
        assert tokens(written(pair, dial, stop_ids=(stop_id,))) == whole[: whole.index(stop_id) + 1]
    assert tokens(written(pair, dial, num_tokens=1)) == whole[:1]


def test_a_stop_token_that_comes_early_ends_the_answer_that_is_judged(pair: Model) -> None:
    stop_id = tokens(written(pair, 0.0))[2]
    steps = written(pair, score_of(pair, num_tokens=3) * 0.999, stop_ids=(stop_id,))
    assert (len(steps), steps[0].depth) == (3, LITTLE)


def test_what_the_little_model_wrote_is_read_by_who_goes_on(pair: Model) -> None:
    context = context_of(pair, 0.0)
    list(method_named("cascade").open(context).steps)
    fresh = pair.new_sequence()
    fresh.append(context.sequence.token_ids)
    np.testing.assert_allclose(context.sequence.extend(Draft.empty()), fresh.extend(Draft.empty()), atol=1e-4)


def test_the_large_models_cache_does_not_know_of_an_answer_that_was_thrown_away(pair: Model) -> None:
    context = context_of(pair, 0.999)
    for step in method_named("cascade").open(context).steps:
        assert step.depth == LARGE
    fresh = pair.new_sequence()
    fresh.append(context.sequence.token_ids)
    np.testing.assert_allclose(context.sequence.extend(Draft.empty()), fresh.extend(Draft.empty()), atol=1e-4)


def test_an_answer_that_might_outgrow_the_little_model_is_the_large_ones(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    small = make_checkpoint(num_hidden_layers=LITTLE, max_position_embeddings=20)
    model = Model.open(make_bundle(make_checkpoint(), drafter=small))
    assert {written(model, 0.0, num_tokens=num)[0].depth for num in (1, 16)} == {LITTLE}
    assert written(model, 0.0, num_tokens=17)[0].depth == LARGE


def test_a_text_that_does_not_fit_is_refused_before_any_work(pair: Model, fed: FED) -> None:
    context = context_of(pair, 0.5, num_tokens=1000)
    with pytest.raises(CacheFull):
        next(method_named("cascade").open(context).steps)
    assert context.sequence.token_ids == [*PROMPT] and fed == []


def test_a_bundle_without_a_little_model_is_refused(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="'cascade' needs a small model, and the bundle has none"):
        method_named("cascade").open(context_of(tiny, 0.5))


def test_the_text_says_what_was_promised_and_no_time_is_counted_twice(pair: Model) -> None:
    model = LanguageModel(pair)
    strict, loose = (model.generate("def f(", max_new_tokens=20, decode="cascade", dial=dial) for dial in (1, 0.0))
    assert strict.stats.approximate == "all tokens as the full model's"
    assert loose.stats.approximate is not None
    assert loose.stats.approximate.startswith("cascade above a probability of 0: agreement not calibrated; ")
    assert (strict.stats.depths, loose.stats.depths) == ({LARGE: 20}, {LITTLE: 20})
    assert loose.stats.other_s >= 0 and loose.stats.ttft_s > 0


def test_an_answer_that_comes_at_once_is_timed_as_it_was_written(pair: Model) -> None:
    stats = LanguageModel(pair).generate("def f(", max_new_tokens=20, decode="cascade", dial=0.0).stats
    assert 0 < stats.model_s < stats.ttft_s
    assert 0 < stats.decode_tokens_per_s < 19 / stats.model_s
    assert stats.prefill_tokens_per_s > stats.prompt_tokens / stats.ttft_s


@pytest.mark.parametrize("end", [2, 7, 12])
def test_what_stands_behind_a_stop_string_is_neither_written_nor_judged(pair: Model, fed: FED, end: int) -> None:
    model = LanguageModel(pair)
    whole = model.generate("def f(", max_new_tokens=60, decode="cascade", dial=0.0)
    stop = whole.text[end : end + 2]
    fed.clear()
    found = model.generate("def f(", max_new_tokens=60, decode="cascade", dial=0.0, stop=stop, logprobs=0)
    assert found.text == whole.text[: whole.text.index(stop)] and found.finish_reason == "stop"
    assert len(fed) == len(found.token_ids) < 60
    score = float(np.exp(chow_quantile([entry.logprob for entry in found.logprobs], 0.1)))
    for dial, depth in ((score * 0.999, LITTLE), (score * 1.001, LARGE)):
        judged = model.generate("def f(", max_new_tokens=60, decode="cascade", dial=dial, stop=stop)
        assert {*judged.stats.depths} == {depth}


@pytest.mark.parametrize("below", [1e-3, 1.0])
def test_the_little_model_ends_where_it_is_not_sure_enough_to_go_on(pair: Model, fed: FED, below: float) -> None:
    model = LanguageModel(pair)
    found = model.generate("def f(", max_new_tokens=60, decode="cascade", dial=0.0, stop_below=below)
    assert found.finish_reason == "unsure"
    assert len(fed) == len(found.token_ids) + 1 < 60
    assert (found.text == "") == (below == 1)
