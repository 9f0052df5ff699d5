"""Big little decoding: without a dial the plain text; with one, no guess stands that surprises more than it says."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, VOCAB_SIZE, cached_rows, plain_text, run, sampler_for
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Drafter, Step
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import ApproximateContext, DrafterContext, Opened, method_named, open_drafter
from skipstone.runtime.methods.small_model import forgive
from skipstone.runtime.sampling import Sampler, SamplingOptions, logprob_of

INF = float("inf")


@pytest.fixture(scope="session")
def little_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """One layer, and surer of what it says than the large model is."""
    return make_checkpoint(num_hidden_layers=1, initializer_range=1.0)


@pytest.fixture(scope="session")
def pair(tiny_checkpoint: Path, little_checkpoint: Path, make_bundle: MakeBundle) -> Model:
    return Model.open(make_bundle(tiny_checkpoint, drafter=little_checkpoint))


def drafter_for(model: Model, options: SamplingOptions = GREEDY, **changes: Any) -> Drafter:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    context = DrafterContext(model=model, sampler=sampler_for(options), sequence=sequence, **changes)
    return open_drafter("big-little", context)


def opened(
    model: Model,
    dial: float,
    options: SamplingOptions = GREEDY,
    *,
    num_tokens: int = 40,
    stop_ids: Collection[int] = (),
) -> tuple[Opened, ApproximateContext]:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    context = ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_for(options, stop_ids),
        setting=dial,
        max_new_tokens=num_tokens,
        stop_ids=stop_ids,
    )
    return method_named("big-little").open(context), context


def lenient(model: Model, dial: float, options: SamplingOptions = GREEDY, **changes: Any) -> list[tuple[Step, Any]]:
    """Return the steps with copies of their logits; checks what holds for any dial."""
    steps, made = [], list(PROMPT)
    found, context = opened(model, dial, options, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in found.steps:
            context.sequence.check()
            made += step.token_ids
            assert context.sequence.token_ids == made
            assert step.depth is None and step.num_accepted <= step.num_drafted <= 10
            steps.append((step, step.logits.copy()))
    return steps


def text_of(steps: list[tuple[Step, Any]]) -> list[int]:
    return [token_id for step, _ in steps for token_id in step.token_ids]


# Without a dial


@pytest.mark.parametrize("options", OPTIONS)
def test_without_a_dial_the_text_is_the_plain_one(pair: Model, options: SamplingOptions) -> None:
    text, steps = run(pair, drafter_for(pair, options), options=options, max_new_tokens=24)
    assert text == plain_text(pair, options, 24)
    assert sum(step.num_drafted for step in steps) > 0


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(temperature=0.8, seed=5)])
def test_in_exact_mode_every_bit_of_int4_is_that_of_the_plain_text(
    tiny_checkpoint: Path, little_checkpoint: Path, make_bundle: MakeBundle, options: SamplingOptions
) -> None:
    model = LanguageModel(Model.open(make_bundle(tiny_checkpoint, precision="int4", drafter=little_checkpoint)))
    sampling = {"temperature": options.temperature, "seed": options.seed}
    found, wanted = (
        model.generate("def f(", max_new_tokens=40, decode=decode, exact=True, logprobs=3, **sampling)
        for decode in ("big-little", "plain")
    )
    assert (found.token_ids, found.logprobs) == (wanted.token_ids, wanted.logprobs)
    assert found.stats.drafters["big-little"].drafted > 0


def test_a_chain_ends_behind_the_first_guess_below_six_tenths_or_after_ten(pair: Model) -> None:
    little, lengths = pair.draft_model, set()
    assert little is not None
    for last_id in range(3, 43):
        text = [*PROMPT, last_id]
        draft = drafter_for(pair).propose(text, limit=99)
        sequence = little.new_sequence()
        sequence.append(text)
        for place, guess in enumerate(draft.token_ids):
            row = sequence.extend(Draft.empty())[0]
            assert guess == row.argmax()
            is_sure = np.exp(logprob_of(row, guess)) >= 0.6
            assert is_sure == (place < len(draft) - 1) or len(draft) == 10
            sequence.commit([guess])
        lengths.add(len(draft))
    assert 1 in lengths and 10 in lengths and len(lengths) > 3


def test_what_is_rejected_does_not_move_the_threshold(pair: Model) -> None:
    drafter = drafter_for(pair)
    first = drafter.propose([*PROMPT], limit=10)
    run(pair, drafter, max_new_tokens=40)
    assert drafter_for(pair).propose([*PROMPT], limit=10) == first
    assert drafter.stop.threshold == pytest.approx(0.6, abs=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", range(4))
def test_no_more_is_guessed_than_asked_for(pair: Model, limit: int) -> None:
    assert len(drafter_for(pair).propose([*PROMPT], limit=limit)) <= limit


# The rule


def rows_of(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).normal(0, 3, (count, 12)).astype(np.float32)


@given(seed=st.integers(0, 10**6), guesses=st.lists(st.integers(0, 11), max_size=6), dial=st.floats(0, 8))
def test_guesses_stand_up_to_the_first_that_is_neither_the_choice_nor_likely_enough(
    seed: int, guesses: list[int], dial: float
) -> None:
    rows = rows_of(seed, len(guesses) + 1)
    found = forgive(Sampler(greedy=True), [5], dial=dial)(Draft.chain(guesses, source="x"), rows)
    choices = rows.argmax(axis=1)
    stands = [
        guess == choice or -np.log(np.exp(row)[guess] / np.exp(row).sum()) <= dial
        for guess, choice, row in zip(guesses, choices, rows, strict=False)
    ]
    num_kept = [*stands, False].index(False)
    assert found == [*guesses[:num_kept], choices[num_kept]]


@given(seed=st.integers(0, 10**6), guesses=st.lists(st.integers(0, 11), max_size=6), by_chance=st.booleans())
def test_at_dial_0_the_rule_is_that_of_plain_decoding(seed: int, guesses: list[int], by_chance: bool) -> None:
    sampler = Sampler(seed=seed, greedy=not by_chance)
    draft, rows = Draft.chain(guesses, source="x"), rows_of(seed, len(guesses) + 1)
    assert forgive(sampler, [5], dial=0.0)(draft, rows) == match(sampler, [5])(draft, rows)


@given(
    seed=st.integers(0, 10**6),
    guesses=st.lists(st.integers(0, 11), max_size=6),
    dials=st.tuples(*[st.floats(0, 9)] * 2),
)
def test_of_one_draft_a_looser_dial_never_keeps_less(seed: int, guesses: list[int], dials: tuple[float, float]) -> None:
    draft, rows = Draft.chain(guesses, source="x"), rows_of(seed, len(guesses) + 1)
    strict, loose = (forgive(Sampler(greedy=True), [5], dial=dial)(draft, rows) for dial in sorted(dials))
    assert len(strict) <= len(loose)


# With a dial


@pytest.mark.parametrize("options", OPTIONS)
def test_at_its_plain_end_the_dial_gives_the_plain_text(pair: Model, options: SamplingOptions) -> None:
    assert [*PROMPT, *text_of(lenient(pair, 0.0, options, num_tokens=24))] == plain_text(pair, options, 24)


@pytest.mark.parametrize("dial", [4.0, 8.0])
def test_no_token_that_stands_surprises_more_than_the_dial(pair: Model, dial: float) -> None:
    num_forgiven = 0
    for step, logits in lenient(pair, dial):
        for place, (token_id, row) in enumerate(zip(step.token_ids, logits, strict=True)):
            if token_id != row.argmax():
                assert place < step.num_accepted and -logprob_of(row, token_id) <= dial
                num_forgiven += 1
    assert num_forgiven > 0


@pytest.mark.parametrize("options", OPTIONS)
def test_with_an_endless_dial_the_little_model_writes_all_but_a_token_a_call(
    pair: Model, options: SamplingOptions
) -> None:
    steps, text, sampler = lenient(pair, INF, options), list(PROMPT), sampler_for(options)
    for step, _ in steps:
        assert step.num_accepted == step.num_drafted == len(step.token_ids) - 1
        for place, token_id in enumerate(step.token_ids):
            writer = pair.draft_model if place < step.num_accepted else pair
            assert writer is not None
            sequence = writer.new_sequence()
            sequence.append(text)
            assert sampler.choose(sequence.extend(Draft.empty())[0], text) == token_id
            text.append(token_id)
    assert max(step.num_accepted for step, _ in steps) > 2


@pytest.mark.parametrize("dial", [0.0, 3.0, INF])
def test_the_cache_is_that_of_a_prefill_after_every_step(pair: Model, dial: float) -> None:
    found, context = opened(pair, dial)
    for _ in found.steps:
        fresh = pair.new_sequence()
        fresh.append(context.sequence.token_ids)
        fresh.extend(Draft.empty())
        for ours, theirs in zip(cached_rows(context.sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(ours, theirs[:, :, : ours.shape[2]], atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(dial=st.sampled_from([0.0, 2.0, 4.0, INF]), place=st.integers(0, 39), num_tokens=st.integers(1, 40))
def test_a_text_ends_with_a_stop_token_or_the_last_that_was_asked_for(
    pair: Model, dial: float, place: int, num_tokens: int
) -> None:
    whole = text_of(lenient(pair, dial))
    stop_id = whole[place]
    found = text_of(lenient(pair, dial, num_tokens=num_tokens, stop_ids=(stop_id,)))
    assert len(found) <= num_tokens
    assert found[-1] == stop_id or len(found) == num_tokens
    assert stop_id not in found[:-1]


def test_a_text_that_does_not_fit_is_refused_before_any_work(pair: Model) -> None:
    found, context = opened(pair, 3.0, num_tokens=1000)
    with pytest.raises(CacheFull):
        next(found.steps)
    assert context.sequence.token_ids == [*PROMPT] and context.sequence.num_cached == 0


def test_a_bundle_without_a_little_model_is_refused(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="'big-little' needs a small model, and the bundle has none"):
        opened(tiny, 3.0)
    with pytest.raises(ConfigError, match="'big-little' needs a small model, and the bundle has none"):
        drafter_for(tiny)


# By name


def test_the_dial_decides_whether_the_text_is_plain_or_approximate(pair: Model) -> None:
    model = LanguageModel(pair)
    plain = model.generate("def f(", max_new_tokens=40, decode="plain")
    for dial in (None, 0.0):
        found = model.generate("def f(", max_new_tokens=40, decode="big-little", dial=dial)
        assert (found.token_ids, found.stats.approximate) == (plain.token_ids, None)
    loose = model.generate("def f(", max_new_tokens=40, decode="big-little", dial=6)
    assert loose.stats.approximate == "big-little up to 6 nats of surprise: agreement not calibrated"
    assert loose.token_ids != plain.token_ids and loose.stats.drafters["big-little"].accepted > 0
    assert max(loose.token_ids) < VOCAB_SIZE
