"""Two models that take turns by entropy: when they switch, what each has read, and the plain text at the plain end."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, cached_rows, plain_text, sampler_for
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import ApproximateContext, method_named
from skipstone.runtime.methods.small_model import EntropySwitch, decode_switch, entropy_bits, open_small_model
from skipstone.runtime.sampling import SamplingOptions

INF = float("inf")
LARGE, LITTLE = 4, 1  # layers
HALF = 7.2  # bits, between the entropies of the two


@pytest.fixture(scope="session")
def pair(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """The little model is less sure than the large one, so that at `HALF` they take turns."""
    small = make_checkpoint(num_hidden_layers=LITTLE, initializer_range=0.1)
    return Model.open(make_bundle(make_checkpoint(), drafter=small))


def context_of(
    model: Model,
    dial: float,
    options: SamplingOptions = GREEDY,
    *,
    num_tokens: int = 40,
    stop_ids: Collection[int] = (),
    exact: bool = False,
) -> ApproximateContext:
    sequence = model.new_sequence(exact=exact)
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
    for step in method_named("switch").open(context).steps:
        context.sequence.check()
        made += step.token_ids
        assert context.sequence.token_ids == made
        assert (step.num_drafted, step.num_accepted, step.logits.shape) == (0, 0, (1, 307))
        assert step.depth in (LARGE, LITTLE)
        assert step.depth == LITTLE or context.sequence.num_waiting == 1
        steps.append(step)
    return steps


def tokens(steps: list[Step]) -> list[int]:
    return [token_id for step in steps for token_id in step.token_ids]


def logits_after(model: Model | None, text: list[int]) -> Any:
    """The slow obvious way: the whole text through a new sequence."""
    assert model is not None
    sequence = model.new_sequence()
    sequence.append(text)
    return sequence.extend(Draft.empty())[0].copy()


# Entropy, and who writes


def test_the_entropy_is_in_bits() -> None:
    assert entropy_bits(np.zeros(8, np.float32)) == pytest.approx(3.0)
    assert entropy_bits(np.array([5.0, 5.0, -np.inf, -np.inf], np.float32)) == pytest.approx(1.0)
    assert entropy_bits(np.array([1e4, 0.0, -1e30], np.float32)) == 0.0
    chances = np.array([0.5, 0.25, 0.125, 0.125])
    assert entropy_bits(np.log(chances).astype(np.float32) + 40) == pytest.approx(1.75)


def test_the_large_model_takes_over_when_the_mean_of_five_entropies_is_above_the_dial() -> None:
    switch = EntropySwitch(1.0, min_stay=3, is_large=False)
    means, writers = [], []
    for entropy in (0.2, 0.4, 0.6, 2, 2, 2, 2):
        switch.see(entropy)
        means.append(round(switch.mean, 9))
        writers.append(switch.is_large)
    assert means == [0.2, 0.3, 0.4, 0.8, 1.04, 1.4, 1.72]
    assert writers == [False] * 4 + [True] * 3


@given(
    dial=st.floats(0, 4),
    entropies=st.lists(st.floats(0, 8), min_size=1, max_size=60),
    min_stay=st.integers(1, 12),
    starts=st.booleans(),
)
def test_who_has_taken_over_stays_and_who_gives_over_has_a_reason(
    dial: float, entropies: list[float], min_stay: int, starts: bool
) -> None:
    switch = EntropySwitch(dial, min_stay=min_stay, is_large=starts)
    writers = [starts]
    for number, entropy in enumerate(entropies, start=1):
        switch.see(entropy)
        writers.append(switch.is_large)
        mean = np.mean(entropies[max(0, number - 5) : number])
        if writers[-1] != writers[-2]:
            assert mean >= dial - 1e-9 if switch.is_large else mean <= dial + 1e-9
    turns = [len(list(turn)) for _, turn in groupby(writers)]
    assert all(length >= min_stay for length in turns[:-1])


@given(entropies=st.lists(st.floats(0, 8), max_size=60))
def test_at_dial_0_the_large_model_stays_and_without_end_the_little_one(entropies: list[float]) -> None:
    strict, loose = EntropySwitch(0.0), EntropySwitch(INF)
    for number, entropy in enumerate(entropies, start=1):
        strict.see(entropy)
        loose.see(entropy)
        assert strict.is_large
        assert loose.is_large == (number < 10)


# The text


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_at_dial_0_the_text_is_the_plain_one(pair: Model, options: SamplingOptions, exact: bool) -> None:
    steps = written(pair, 0.0, options, num_tokens=24, exact=exact)
    assert [*PROMPT, *tokens(steps)] == plain_text(pair, options, 24)
    assert {step.depth for step in steps} == {LARGE}


@pytest.mark.parametrize("options", OPTIONS)
def test_with_an_endless_dial_the_little_model_writes_all_but_the_first_ten(
    pair: Model, options: SamplingOptions
) -> None:
    steps, text, choose = written(pair, INF, options), list(PROMPT), sampler_for(options).choose
    assert [step.depth for step in steps] == [LARGE] * 10 + [LITTLE] * 30
    for number, step in enumerate(steps):
        theirs = logits_after(pair if number < 10 else pair.draft_model, text)
        assert step.token_ids == [choose(theirs, text)]
        text += step.token_ids


def test_in_between_both_write_each_from_its_own_logits(pair: Model) -> None:
    """The slow twin: the whole text through a new sequence for every token, and the switch beside it."""
    context, text, switch = context_of(pair, HALF, num_tokens=60), list(PROMPT), EntropySwitch(HALF, min_stay=2)
    depths = []
    for step in decode_switch(
        context.sequence,
        small=open_small_model(context, "switch"),
        num_layers=LARGE,
        switch=EntropySwitch(HALF, min_stay=2),
        choose=context.sampler.choose,
        max_new_tokens=60,
        stop_ids=(),
    ):
        theirs = logits_after(pair if switch.is_large else pair.draft_model, text)
        np.testing.assert_allclose(step.logits[0], theirs, atol=1e-3)
        assert step.depth == (LARGE if switch.is_large else LITTLE)
        switch.see(entropy_bits(theirs))
        text += step.token_ids
        depths.append(step.depth)
    assert len(list(groupby(depths))) >= 4


def test_after_every_step_the_caches_of_both_are_those_of_a_prefill(pair: Model) -> None:
    context, drafter = context_of(pair, HALF), pair.draft_model
    assert drafter is not None
    little = open_small_model(context, "switch")
    follower: Sequence = little._text.sequence
    fresh_of = {id(context.sequence): pair, id(follower): drafter}
    num_switches, last = 0, LARGE
    for step in decode_switch(
        context.sequence,
        small=little,
        num_layers=LARGE,
        switch=EntropySwitch(HALF, min_stay=3),
        choose=context.sampler.choose,
        max_new_tokens=40,
        stop_ids=(),
    ):
        num_switches += step.depth != last
        last = step.depth or 0
        for sequence in (context.sequence, follower):
            if not sequence.num_cached:
                continue
            sequence.check()
            fresh = fresh_of[id(sequence)].new_sequence()
            fresh.append(context.sequence.token_ids)
            fresh.extend(Draft.empty())
            assert sequence.token_ids == context.sequence.token_ids[: len(sequence.token_ids)]
            for ours, theirs in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
                np.testing.assert_allclose(ours, theirs[:, :, : ours.shape[2]], atol=1e-4)
    assert num_switches >= 2


def test_who_missed_tokens_reads_them_in_one_call(pair: Model, fed: list[tuple[int, ...]]) -> None:
    steps = written(pair, INF, num_tokens=12)
    assert [step.depth for step in steps] == [LARGE] * 10 + [LITTLE] * 2
    assert fed == [(1, len(PROMPT)), *[(1, 1)] * 9, (1, len(PROMPT) + 10), (1, 1)]


@pytest.mark.parametrize("dial", [0.0, HALF, INF])
def test_a_stop_token_ends_the_text_whoever_writes_it(pair: Model, dial: float) -> None:
    whole = tokens(written(pair, dial))
    for stop_id in (whole[3], whole[25]):
        found = tokens(written(pair, dial, stop_ids=(stop_id,)))
        assert found == whole[: whole.index(stop_id) + 1]
    assert tokens(written(pair, dial, num_tokens=1)) == whole[:1]


def test_what_the_little_model_wrote_is_read_by_who_goes_on(pair: Model) -> None:
    context = context_of(pair, INF)
    list(method_named("switch").open(context).steps)
    assert context.sequence.num_waiting == 31
    theirs = logits_after(pair, context.sequence.token_ids)
    np.testing.assert_allclose(context.sequence.extend(Draft.empty())[0], theirs, atol=1e-4)


def test_a_text_that_outgrows_the_little_model_goes_on_with_the_large_one(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    small = make_checkpoint(num_hidden_layers=LITTLE, max_position_embeddings=20)
    steps = written(Model.open(make_bundle(make_checkpoint(), drafter=small)), INF)
    assert [step.depth for step in steps] == [LARGE] * 10 + [LITTLE] * 6 + [LARGE] * 24


def test_a_text_that_does_not_fit_is_refused_before_any_work(pair: Model, fed: list[tuple[int, ...]]) -> None:
    context = context_of(pair, HALF, num_tokens=1000)
    with pytest.raises(CacheFull):
        next(method_named("switch").open(context).steps)
    assert context.sequence.token_ids == [*PROMPT] and fed == []


def test_a_bundle_without_a_little_model_is_refused(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="'switch' needs a small model, and the bundle has none"):
        method_named("switch").open(context_of(tiny, HALF))


def test_the_text_says_what_was_promised_and_who_wrote_how_much(pair: Model) -> None:
    model = LanguageModel(pair)
    plain = model.generate("def f(", max_new_tokens=30, decode="plain")
    strict, loose = (model.generate("def f(", max_new_tokens=30, decode="switch", dial=dial) for dial in (0, 20))
    assert strict.token_ids == plain.token_ids
    assert strict.stats.approximate == "all tokens as the full model's"
    assert loose.stats.approximate == "switch at 20 bits of entropy: agreement not calibrated"
    assert loose.stats.depths == {LITTLE: 20, LARGE: 10}
