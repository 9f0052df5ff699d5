"""Fewer layers for each next token: the schedule of the paper, caches that hold what they must, and a way back."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, cached_rows, plain_text, sampler_for
from family_cases import CASES
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import StageEntry
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Feed, Model, Part, Sequence
from skipstone.runtime.methods import ApproximateContext, Opened, method_named
from skipstone.runtime.methods.depth import SkipSchedule
from skipstone.runtime.sampling import SamplingOptions


@pytest.fixture(scope="session", params=["four stages", "windows of 5"])
def model(
    request: pytest.FixtureRequest, tiny_stages: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Model:
    if request.param == "windows of 5":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="1,2"))
    return tiny_stages


def stages_of(borders: SequenceOf[int]) -> tuple[StageEntry, ...]:
    return tuple(
        StageEntry(file=f"{first}.onnx", first_layer=first, end_layer=end, embeds=not first, ends_in_logits=False)
        for first, end in pairwise((0, *borders))
    )


def opened(model: Model, *, exact: bool = False) -> Sequence:
    sequence = model.new_sequence(exact=exact)
    sequence.append(PROMPT)
    return sequence


def opened_text(
    model: Model,
    sequence: Sequence,
    dial: float,
    *,
    options: SamplingOptions = GREEDY,
    num_tokens: int = 30,
    stop_ids: Collection[int] = (),
) -> Opened:
    return method_named("skipdecode").open(
        ApproximateContext(
            model=model,
            sequence=sequence,
            sampler=sampler_for(options, stop_ids),
            setting=dial,
            max_new_tokens=num_tokens,
            stop_ids=stop_ids,
        )
    )


def run(model: Model, sequence: Sequence, dial: float, **options: Any) -> list[tuple[Step, NDArray[np.float32]]]:
    """Return the steps with copies of their logits; checks what holds at any dial."""
    steps = []
    for step in opened_text(model, sequence, dial, **options).steps:
        sequence.check()
        assert sequence.token_ids[-1:] == step.token_ids
        assert (step.num_drafted, step.num_accepted, step.logits.shape) == (0, 0, (1, 307))
        steps.append((step, step.logits.copy()))
    return steps


def token_ids_of(steps: list[tuple[Step, NDArray[np.float32]]]) -> list[int]:
    return [step.token_ids[0] for step, _ in steps]


# The schedule


def test_the_layers_fall_in_a_line_to_the_horizon_and_stay_there() -> None:
    """The figures of the paper's formula: 24 layers down to 8 over 64 tokens."""
    schedule = SkipSchedule(stages=stages_of(range(1, 25)), least=8, horizon=64)
    places = (0, 8, 16, 32, 48, 64, 100)
    assert [schedule.budget(place) for place in places] == [24, 22, 20, 16, 12, 8, 8]
    assert [schedule.depth(place) for place in places] == [24, 22, 20, 16, 12, 8, 8]
    assert (schedule.budget(2), schedule.depth(2)) == (23.5, 24), "a half goes up"
    assert (schedule.budget(3), schedule.depth(3)) == (23.25, 23)
    assert schedule.late_stages(100) == (17, 18, 19, 20, 21, 22, 23)


def test_the_layers_left_out_are_whole_stages() -> None:
    schedule = SkipSchedule(stages=stages_of((2, 4, 6, 8)), least=0, horizon=8)
    assert [schedule.depth(place) for place in range(10)] == [8, 8, 6, 6, 4, 4, 4, 4, 4, 4]
    assert [schedule.late_stages(place) for place in (0, 2, 9)] == [(1, 2, 3), (2, 3), (3,)]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=12),
    dial=st.floats(0, 1),
    horizon=st.integers(1, 60),
)
def test_what_runs_later_ran_before_and_is_never_less_than_the_budget(
    sizes: list[int], dial: float, horizon: int
) -> None:
    ends = np.cumsum(sizes).tolist()
    stages = stages_of(ends)
    schedule = SkipSchedule(stages=stages, least=dial * ends[-1], horizon=horizon)
    sets = [{0, *schedule.late_stages(place)} for place in range(horizon + 3)]
    assert sets[0] == {*range(len(sizes))}
    for place, (earlier, later) in enumerate(pairwise(sets), start=1):
        assert later <= earlier
        assert len(sizes) - 1 in later, "the last stage always runs"
        assert schedule.depth(place) == sum(sizes[number] for number in later) >= schedule.budget(place) - 0.5


@pytest.mark.parametrize("exits", ["none", "2"])
def test_a_bundle_with_nothing_to_leave_out_is_refused_with_the_command_that_makes_one(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, exits: str
) -> None:
    small = Model.open(make_bundle(make_checkpoint(), exits=exits))
    with pytest.raises(ConfigError, match=r"the bundle has \d in all; make one with `.* --exits auto`, or --cuts each"):
        opened_text(small, opened(small), 0.5)


# Texts


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_at_its_plain_end_it_gives_plain_decodings_text_by_plain_calls(
    model: Model, options: SamplingOptions, exact: bool, fed: list[tuple[int, ...]]
) -> None:
    sequence = opened(model, exact=exact)
    fed.clear()  # how rows round may have been measured
    found = run(model, sequence, 1.0, options=options)
    assert fed == [(1, len(PROMPT)), *[(1, 1)] * 29]
    assert [*PROMPT, *token_ids_of(found)] == plain_text(model, options, 30)
    assert {step.depth for step, _ in found} == {4}
    assert opened_text(model, opened(model), 1.0).promise == "all tokens as the full model's: no layer is left out"


def slow_twin(model: Model, token_ids: SequenceOf[int], schedule: SkipSchedule) -> list[NDArray[np.float32]]:
    """Return logits [V] for what follows the prompt and each later token, every stage called by itself.

    All tokens of a stage stand in its cache at their own places; what a stage left out is a hole that nobody reads.
    """
    workspace = model.new_workspace(context_length=len(token_ids))
    prompt, found = token_ids[: len(PROMPT)], []
    feed = Feed.of(prompt, rows=range(len(prompt) - 1, len(prompt)))
    found.append(workspace.call(feed).run(feed)[0].copy())
    for place, token_id in enumerate(token_ids[len(prompt) :], start=1):
        hidden = None
        for number in (0, *schedule.late_stages(place)):
            is_last = number == len(schedule.stages) - 1
            rows, length = range(1) if is_last else range(0), len(prompt) + place - 1
            feed = Feed.of([token_id], rows=rows, length=length, hidden=hidden)
            call = workspace.call(feed, Part((number,), head=is_last))
            logits = call.run(feed).copy()
            hidden = call.hidden.copy()
        found.append(logits[0])
    return found


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS[:2])
@pytest.mark.parametrize("dial", [0.0, 0.5])
def test_each_token_is_made_by_the_layers_of_its_place_over_what_they_made_before(
    model: Model, dial: float, options: SamplingOptions, exact: bool
) -> None:
    steps = run(model, opened(model, exact=exact), dial, options=options)
    schedule = SkipSchedule(stages=model.manifest.stages, least=4 * dial, horizon=30)
    depths = [step.depth for step, _ in steps]
    assert depths == [schedule.depth(place) for place in range(30)]
    assert depths[0] == 4 and len({*depths}) > 1
    theirs = slow_twin(model, [*PROMPT, *token_ids_of(steps)], schedule)
    choose, text = sampler_for(options).choose, list(PROMPT)
    for (step, ours), wanted in zip(steps, theirs, strict=False):
        np.testing.assert_allclose(ours[0], wanted, atol=1e-4)
        assert choose(wanted, text) == step.token_ids[0]
        text += step.token_ids


def test_a_token_costs_one_row_of_the_first_stage_and_one_of_the_last(
    tiny_stages: Model, fed: list[tuple[int, ...]]
) -> None:
    steps = run(tiny_stages, opened(tiny_stages), 0.0)
    num_whole = sum(step.depth == 4 for step, _ in steps)
    assert 1 < num_whole < 10
    assert fed == [(1, len(PROMPT)), *[(1, 1)] * (num_whole - 1 + 2 * (30 - num_whole))]


def test_the_promise_says_how_deep_it_goes_and_that_nothing_is_calibrated(tiny_stages: Model) -> None:
    promise = opened_text(tiny_stages, opened(tiny_stages), 0.5).promise
    assert promise == "skipdecode down to 2 of 4 layers, the fewest of this bundle: agreement not calibrated"
    assert "down to 3 of 4 layers: agreement" in opened_text(tiny_stages, opened(tiny_stages), 0.75).promise
    assert opened_text(tiny_stages, opened(tiny_stages), 0.0).promise == promise
    found = LanguageModel(tiny_stages).generate("def", decode="skipdecode", dial=0.5, max_new_tokens=12)
    assert found.stats.approximate == promise
    assert sum(found.stats.depths.values()) == len(found.token_ids)


# Afterwards


@pytest.mark.parametrize("exact", [False, True])
def test_whoever_goes_on_finds_the_caches_of_a_prefill(model: Model, exact: bool) -> None:
    sequence = opened(model, exact=exact)
    for turn in range(2):
        run(model, sequence, 0.0, num_tokens=20)
        assert sequence.num_waiting > 1
        sequence.append([50 + turn, 60])
    wanted = model.new_sequence(exact=exact)
    wanted.append(sequence.token_ids)
    np.testing.assert_allclose(sequence.extend(Draft.empty()), wanted.extend(Draft.empty()), atol=1e-4)
    assert sequence.num_cached == wanted.num_cached == len(sequence.token_ids)
    for mine, other in zip(cached_rows(sequence), cached_rows(wanted), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("dial", [0.0, 1.0])
def test_a_stop_token_ends_the_text_at_any_depth(model: Model, dial: float) -> None:
    whole = token_ids_of(run(model, opened(model), dial))
    stop_id = whole[25]
    found = token_ids_of(run(model, opened(model), dial, stop_ids=(stop_id,)))
    assert found == whole[: whole.index(stop_id) + 1]


def test_a_text_that_does_not_fit_is_refused_before_any_work(model: Model) -> None:
    sequence = opened(model)
    with pytest.raises(CacheFull):
        run(model, sequence, 0.0, num_tokens=1000)
    assert sequence.token_ids == [*PROMPT]


def test_a_text_may_fill_the_cache_to_the_last_place(model: Model) -> None:
    sequence = opened(model)
    run(model, sequence, 0.0, num_tokens=sequence.room)
    assert sequence.room == 0
    assert sequence.extend(Draft.empty()).shape == (1, 307)


def test_where_positions_change_the_text_is_fed_again_to_all_layers(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES["llama, longrope"]
    long = Model.open(make_bundle(make_checkpoint(case.model_type, **case.config), exits="1,2"))
    assert long.manifest.long_rope_from == 16
    sequence = opened(long)
    steps = run(long, sequence, 0.0)
    depths = [step.depth for step, _ in steps]
    crossing = 17 - len(PROMPT)
    assert depths[crossing] == 4 and {*depths[8:crossing], *depths[crossing + 1 :]} <= {2, 3}
    given = long.new_sequence()
    given.append([*PROMPT, *token_ids_of(steps)[:crossing]])
    np.testing.assert_allclose(given.extend(Draft.empty()), steps[crossing][1], atol=1e-4)
