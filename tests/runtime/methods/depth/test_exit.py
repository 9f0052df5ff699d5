"""Leaving early: exact caches after every step, plain decoding when nobody leaves, the exit alone when all do."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, sampler_for
from family_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from model_calls import watching
from numpy.typing import NDArray

from skipstone.errors import CacheFull
from skipstone.runtime.costs import MOST_BEHIND
from skipstone.runtime.decoding import PlainDrafter, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages
from skipstone.runtime.methods.depth import Exit, ExitPolicy, Gate, GatedExit, at_depths, decode_early, depth_logits
from skipstone.runtime.sampling import SamplingOptions, confidence_named

NEVER, ALWAYS, OFTEN = 2.0, -1.0, 0.02
NUM_LAYERS = 4


@pytest.fixture(scope="session", params=["four stages", "windows of 5"])
def model(
    request: pytest.FixtureRequest, tiny_stages: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Model:
    if request.param == "windows of 5":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2"))
    return tiny_stages


class Scripted(ExitPolicy):
    """Lets the tokens leave that a plan names, at exits in turn."""

    def __init__(self, exits: SequenceOf[GatedExit], plan: SequenceOf[bool]) -> None:
        super().__init__(exits, None, num_layers=NUM_LAYERS)
        self._turns, self._plan, self._asked = list(exits), list(plan), 0

    def choose(self) -> GatedExit | None:
        self._turns = [*self._turns[1:], self._turns[0]]
        return self._turns[0]

    def is_sure(self, exit: GatedExit, shown: NDArray[np.float32]) -> bool:
        self._asked += 1
        return self._plan[self._asked % len(self._plan)]


def exits_of(model: Model, threshold: float, metric: str = "gap") -> list[GatedExit]:
    """Return the exits that the measure allows: saturation those after two stages or more."""
    return [
        Exit(
            num_layers=num_layers,
            num_stages=num_stages,
            share=num_layers / NUM_LAYERS,
            text=None,
            judge=Gate(metric=metric, threshold=threshold, share=0.5),
        )
        for num_layers, num_stages in exit_stages(model).items()
        if metric == "gap" or num_stages > 1
    ]


def at(model: Model, threshold: float, number: int = 0) -> ExitPolicy:
    """Return the policy that uses one exit of the model, at a threshold."""
    return ExitPolicy(exits_of(model, threshold)[number : number + 1], None, num_layers=NUM_LAYERS)


def opened(model: Model, *, exact: bool = False) -> Sequence:
    sequence = model.new_sequence(exact=exact)
    sequence.append(PROMPT)
    return sequence


def run(
    sequence: Sequence,
    policy: ExitPolicy,
    *,
    options: SamplingOptions = GREEDY,
    num_tokens: int = 40,
    stop_ids: Collection[int] = (),
) -> list[tuple[Step, NDArray[np.float32]]]:
    """Return the steps with copies of their logits; checks what holds for any policy."""
    steps = []
    choose = sampler_for(options, stop_ids).choose
    for step in decode_early(sequence, policy=policy, choose=choose, max_new_tokens=num_tokens, stop_ids=stop_ids):
        sequence.check()
        assert sequence.token_ids[-1:] == step.token_ids and sequence.num_waiting <= 1 + MOST_BEHIND
        assert (step.num_drafted, step.num_accepted, step.logits.shape) == (0, 0, (1, 307))
        assert (sequence.num_waiting == 1) == (step.depth == NUM_LAYERS)
        steps.append((step, step.logits.copy()))
    return steps


def plain(
    model: Model, options: SamplingOptions = GREEDY, *, exact: bool = False, num_tokens: int = 40
) -> list[tuple[int, NDArray[np.float32]]]:
    sequence = opened(model, exact=exact)
    accept = match(sampler_for(options), sequence.token_ids)
    steps = decode(sequence, drafter=PlainDrafter(), accept=accept, max_new_tokens=num_tokens, stop_ids=())
    return [(step.token_ids[0], step.logits.copy()) for step in steps]


def cached(sequence: Sequence, layer: int, num_rows: int) -> NDArray[np.float32]:
    """Return keys and values [2, H, num_rows, D] of the first rows of a layer."""
    return np.stack([side.read()[0, :, :num_rows] for side in sequence.cache.layers[layer]])


def assert_caches_are_those_of_a_prefill(model: Model, sequence: Sequence) -> None:
    """Compare every stage's rows with those of the same text, fed at once to a new sequence."""
    fresh = model.new_sequence()
    fresh.append(sequence.token_ids)
    fresh.extend(Draft.empty())
    early = sequence.ahead.rows
    for number, stage in enumerate(model.manifest.stages):
        ahead = len(early.token_ids) if early is not None and number < early.num_stages else 0
        num_rows = sequence.num_cached + ahead
        for layer in range(stage.first_layer, stage.end_layer):
            found, wanted = cached(sequence, layer, num_rows), cached(fresh, layer, num_rows)
            np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=12, deadline=None)
@given(plan=st.lists(st.booleans(), min_size=1, max_size=24))
def test_the_caches_of_every_stage_are_those_of_a_prefill_after_every_step(
    model: Model, exact: bool, plan: list[bool]
) -> None:
    sequence = opened(model, exact=exact)
    policy = Scripted(exits_of(model, NEVER), plan)
    for _ in decode_early(sequence, policy=policy, choose=sampler_for(GREEDY).choose, max_new_tokens=30, stop_ids=()):
        assert_caches_are_those_of_a_prefill(model, sequence)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_an_exit_that_is_never_believed_gives_plain_decodings_text_and_logits(
    model: Model, options: SamplingOptions, exact: bool
) -> None:
    wanted = plain(model, options, exact=exact)
    for policy in (at(model, NEVER), ExitPolicy([], None, num_layers=NUM_LAYERS)):
        found = run(opened(model, exact=exact), policy, options=options)
        assert [step.token_ids[0] for step, _ in found] == [token_id for token_id, _ in wanted]
        assert {step.depth for step, _ in found} == {NUM_LAYERS}
        for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("options", OPTIONS)
def test_an_exit_that_is_always_believed_writes_the_text_of_the_exit_alone(
    model: Model, options: SamplingOptions
) -> None:
    """The slow twin: the whole text through the first stages for every token, but where 16 tokens are behind."""
    policy, choose = at(model, ALWAYS), sampler_for(options).choose
    found = run(opened(model), policy, options=options)
    exit_depth, text = exits_of(model, ALWAYS)[0].num_layers, list(PROMPT)
    for number, (step, ours) in enumerate(found):
        depth = NUM_LAYERS if number % (MOST_BEHIND + 1) == 0 else exit_depth
        theirs = list(depth_logits(model, text))[-1][depth][-1]
        np.testing.assert_allclose(ours[0], theirs, atol=1e-4)
        assert (step.depth, step.token_ids[0]) == (depth, choose(theirs, text))
        text += step.token_ids
    assert len(found) > 2 * MOST_BEHIND


# Saturation, which asks no head


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_saturation_that_is_always_or_never_believed_writes_what_any_other_measure_does(
    tiny_stages: Model, options: SamplingOptions, exact: bool
) -> None:
    for threshold in (NEVER, ALWAYS):
        for one in exits_of(tiny_stages, threshold, "saturation"):
            ours, theirs = (
                run(opened(tiny_stages, exact=exact), ExitPolicy([used], None, num_layers=NUM_LAYERS), options=options)
                for used in (one, replace(one, judge=replace(one.judge, metric="gap")))
            )
            assert [(step.token_ids, step.depth) for step, _ in ours] == [
                (step.token_ids, step.depth) for step, _ in theirs
            ]
            for (_, mine), (_, other) in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=12, deadline=None)
@given(plan=st.lists(st.booleans(), min_size=1, max_size=24))
def test_the_caches_are_those_of_a_prefill_when_hidden_states_are_asked(
    tiny_stages: Model, exact: bool, plan: list[bool]
) -> None:
    sequence = opened(tiny_stages, exact=exact)
    policy = Scripted(exits_of(tiny_stages, NEVER, "saturation"), plan)
    for _ in decode_early(sequence, policy=policy, choose=sampler_for(GREEDY).choose, max_new_tokens=30, stop_ids=()):
        assert_caches_are_those_of_a_prefill(tiny_stages, sequence)


def test_the_head_runs_once_for_every_token_by_saturation_and_twice_by_logits_that_are_not_believed(
    tiny_stages: Model,
) -> None:
    heads = list[bool]()
    for metric, wanted in (("saturation", 30), ("gap", 30 + 20)):  # of 29 tokens behind the prompt 9 leave
        heads.clear()
        policy = Scripted(exits_of(tiny_stages, NEVER, metric)[-1:], [True, False, False])
        with watching(lambda call, token_ids, lengths, logits: heads.append(len(logits) > 0)):
            steps = run(opened(tiny_stages), policy, num_tokens=30)
        assert sum(heads) == wanted
        assert sum(step.depth != NUM_LAYERS for step, _ in steps) == 9


def test_the_threshold_parts_the_tokens_by_how_far_the_last_stage_turned_them(tiny_stages: Model) -> None:
    """The slow twin: the whole text through the stages for every token."""
    (text,) = at_depths(tiny_stages, [*PROMPT, *range(100, 140)])
    threshold = float(np.median(confidence_named("saturation")(text[2].shown("saturation"))))
    one = exits_of(tiny_stages, threshold, "saturation")[0]
    steps = run(opened(tiny_stages), ExitPolicy([one], None, num_layers=NUM_LAYERS))
    history, behind = list(PROMPT), MOST_BEHIND  # the prompt is not asked
    for step, _ in steps:
        (at,) = at_depths(tiny_stages, history)
        sure = confidence_named("saturation")(at[2].shown("saturation"))[-1] > threshold
        assert step.depth == (2 if sure and behind < MOST_BEHIND else NUM_LAYERS)
        behind = behind + 1 if step.depth == 2 else 0
        history += step.token_ids
    assert {step.depth for step, _ in steps} == {2, NUM_LAYERS}


# All measures


def test_in_an_exact_text_the_tokens_of_the_full_model_have_the_bits_of_a_plain_text(model: Model) -> None:
    sequence = opened(model, exact=True)
    depths = set()
    for step in decode_early(
        sequence, policy=at(model, OFTEN), choose=sampler_for(GREEDY).choose, max_new_tokens=40, stop_ids=()
    ):
        depths.add(step.depth)
        if step.depth == NUM_LAYERS:
            ours = step.logits.copy()
            given = model.new_sequence(exact=True)
            given.append(sequence.token_ids[:-1])
            np.testing.assert_array_equal(given.extend(Draft.empty()), ours)
    assert len(depths) == 2, "the threshold lets some tokens leave, not all"


def test_a_text_of_both_kinds_is_the_same_when_it_is_made_again(model: Model) -> None:
    first, second = (run(opened(model), at(model, OFTEN)) for _ in range(2))
    assert [step.token_ids for step, _ in first] == [step.token_ids for step, _ in second]
    assert len({step.depth for step, _ in first}) == 2


@pytest.mark.parametrize("threshold", [NEVER, ALWAYS])
def test_a_stop_token_ends_the_text_at_any_depth(model: Model, threshold: float) -> None:
    whole = [step.token_ids[0] for step, _ in run(opened(model), at(model, threshold))]
    stop_id = whole[7]
    found = [step.token_ids[0] for step, _ in run(opened(model), at(model, threshold), stop_ids=(stop_id,))]
    assert found == whole[: whole.index(stop_id) + 1]


def test_what_fell_behind_is_caught_up_by_whoever_goes_on(model: Model) -> None:
    sequence = opened(model)
    run(sequence, at(model, ALWAYS), num_tokens=6)
    assert sequence.num_waiting > 1
    wanted = model.new_sequence()
    wanted.append(sequence.token_ids)
    np.testing.assert_allclose(sequence.extend(Draft.empty()), wanted.extend(Draft.empty()), atol=1e-4)
    again = opened(model)
    run(again, at(model, ALWAYS), num_tokens=6)
    run(again, at(model, ALWAYS, -1), num_tokens=6)
    assert_caches_are_those_of_a_prefill(model, again)


def test_a_text_that_does_not_fit_is_refused_before_any_work(model: Model) -> None:
    sequence = opened(model)
    with pytest.raises(CacheFull):
        run(sequence, at(model, ALWAYS), num_tokens=1000)
    assert sequence.token_ids == [*PROMPT]


def test_positions_that_change_at_a_length_are_taken_over_by_all_stages(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES["llama, longrope"]
    long = Model.open(make_bundle(make_checkpoint(case.model_type, **case.config), exits="2"))
    assert long.manifest.long_rope_from == 16
    sequence = long.new_sequence()
    sequence.append(PROMPT)
    for _ in decode_early(
        sequence,
        policy=Scripted(exits_of(long, NEVER), [True, True, False]),
        choose=sampler_for(GREEDY).choose,
        max_new_tokens=30,
        stop_ids=(),
    ):
        if len(sequence.token_ids) != 17:  # the next call feeds the text again
            assert_caches_are_those_of_a_prefill(long, sequence)
