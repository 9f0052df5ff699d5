"""The method `adaptive`: tokens leave where the learned threshold lets them, and the caches stay exact."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle
from decoding import GREEDY, OPTIONS, PROMPT, cached_rows, plain_text, sampler_for
from numpy.typing import NDArray
from sharp_models import sharp_checkpoint

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.costs import MOST_BEHIND, ExitTimes
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.generation import GenerationOptions, stream
from skipstone.runtime.methods import ApproximateContext, method_named
from skipstone.runtime.methods.depth import (
    MOST_UPDATES,
    NO_EXIT_PAYS,
    UPDATE_EVERY,
    Beta,
    BetaMixture,
    ExitRecord,
    depth_logits,
    records_of,
)
from skipstone.runtime.sampling import SamplingOptions

NUM_LAYERS, EXIT = 4, 2
# Calls before the exit cost little, so that it always pays.
TIMES = ExitTimes(1.0, {EXIT: 0.01}, {EXIT: [0.5, 0.5, 0.5]})
# Confidences that are right above .3 or so.
KNOWN = BetaMixture(Beta(3.0, 3.0), Beta(1.0, 6.0), 0.5)


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Open a tiny model with an exit after the second layer, which nothing is known of."""
    folder = sharp_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("late") / "sharp", late=0.2)

    def make(*, precision: str = "fp32") -> Model:
        model = Model.open(make_bundle(folder, precision=precision, exits="2"))
        model.shared.get("exit times", lambda: TIMES)
        return model

    return make


@pytest.fixture
def fresh(make_model: Any) -> Model:
    """A model that has learned nothing."""
    model: Model = make_model()
    return model


@pytest.fixture
def known(fresh: Model) -> Model:
    """A model of whose exit enough is known."""
    record_of(fresh).mixture = KNOWN
    return fresh


def record_of(model: Model) -> ExitRecord:
    return records_of(model, model.shared, "adaptive")[EXIT]


def context_of(
    model: Model,
    options: SamplingOptions = GREEDY,
    *,
    dial: float = 0.6,
    num_tokens: int = 60,
    stop_ids: Collection[int] = (),
    exact: bool = False,
    forced: bool = False,
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
        forced=forced,
    )


def run(context: ApproximateContext) -> list[tuple[Step, NDArray[np.float32]]]:
    """Return the steps with copies of their logits; checks what holds for any text."""
    sequence, made = context.sequence, list[tuple[Step, NDArray[np.float32]]]()
    text = [*sequence.token_ids]
    for step in method_named("adaptive").open(context).steps:
        text += step.token_ids
        sequence.check()
        assert sequence.token_ids == text and sequence.num_waiting == 1
        assert len(step.logits) >= len(step.token_ids) and step.depth in (EXIT, NUM_LAYERS)
        made.append((step, step.logits.copy()))
    return made


def tokens_of(steps: list[tuple[Step, NDArray[np.float32]]]) -> list[int]:
    return [token_id for step, _ in steps for token_id in step.token_ids]


def left_of(steps: list[tuple[Step, NDArray[np.float32]]]) -> int:
    return sum(len(step.token_ids) for step, _ in steps if step.depth == EXIT)


# The ends of the dial


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_at_dial_1_the_text_is_plain_decodings(known: Model, options: SamplingOptions, exact: bool) -> None:
    context = context_of(known, options, dial=1.0, exact=exact)
    steps = run(context)
    assert tokens_of(steps) == plain_text(known, options, 60)[len(PROMPT) :]
    assert {step.depth for step, _ in steps} == {NUM_LAYERS}
    opened = method_named("adaptive").open(context_of(known, dial=1.0))
    assert opened.promise == "all tokens as the full model's: no exit is used"


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_before_it_has_learned_the_text_is_plain_decodings(fresh: Model, options: SamplingOptions) -> None:
    context = context_of(fresh, options, dial=0.1, num_tokens=UPDATE_EVERY)
    assert tokens_of(run(context)) == plain_text(fresh, options, UPDATE_EVERY)[len(PROMPT) :]


def test_a_looser_dial_lets_more_tokens_leave(known: Model) -> None:
    record_of(known).num_updates = MOST_UPDATES  # learn no more
    left = [left_of(run(context_of(known, dial=dial, num_tokens=200))) for dial in (1.0, 0.9999, 0.9, 0.5, 0.0)]
    assert left == sorted(left) and left[0] == 0 < left[1] < left[2] < left[3] < left[4]


# What it writes


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_each_token_is_the_choice_of_the_depth_that_made_it_along_the_text(
    known: Model, options: SamplingOptions, exact: bool
) -> None:
    """The slow twin: the text at once through the exit and through the whole model."""
    context = context_of(known, options, exact=exact)
    steps, choose = run(context), sampler_for(options).choose
    text, at = context.sequence.token_ids, len(PROMPT)
    pieces = [*depth_logits(known, text)]
    by_depth = {depth: np.concatenate([piece[depth] for piece in pieces]) for depth in (EXIT, NUM_LAYERS)}
    for step, logits in steps:
        assert step.depth is not None
        for row, token_id in zip(logits, step.token_ids, strict=False):
            wanted = by_depth[step.depth][at - 1]
            np.testing.assert_allclose(row, wanted, atol=1e-3)
            assert token_id == choose(wanted, text[:at])
            at += 1
    assert {step.depth for step, _ in steps} == {EXIT, NUM_LAYERS}


def test_some_tokens_that_leave_are_not_the_full_models_choice(known: Model) -> None:
    assert tokens_of(run(context_of(known, dial=0.1))) != plain_text(known, GREEDY, 60)[len(PROMPT) :]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_caches_of_every_stage_are_those_of_a_prefill_after_every_step(make_model: Any, precision: str) -> None:
    model = make_model(precision=precision)
    record_of(model).mixture = KNOWN
    context = context_of(model, dial=0.3, exact=precision != "fp32")
    fresh = model.new_sequence(exact=context.sequence.exact)
    for _ in method_named("adaptive").open(context).steps:
        sequence = context.sequence
        fresh.rollback(0)
        fresh.append(sequence.token_ids)
        fresh.extend(Draft.empty())
        for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)


def test_at_most_16_tokens_leave_together(known: Model) -> None:
    record_of(known).mixture = BetaMixture(Beta(1.0, 1.0), Beta(1.0, 1.0), 0.99)
    lengths = [
        len(step.token_ids) for step, _ in run(context_of(known, dial=0.0, num_tokens=200)) if step.depth == EXIT
    ]
    assert max(lengths) == MOST_BEHIND
    assert {len(step.token_ids) for step, _ in run(context_of(known)) if step.depth == NUM_LAYERS} == {1}


@pytest.mark.parametrize("dial", [0.0, 0.9])
def test_a_stop_token_ends_the_text_at_any_depth(known: Model, dial: float) -> None:
    record_of(known).num_updates = MOST_UPDATES
    whole = tokens_of(run(context_of(known, dial=dial)))
    for stop_id in whole[1:20]:
        context = context_of(known, dial=dial, stop_ids=(stop_id,))
        assert tokens_of(run(context)) == whole[: whole.index(stop_id) + 1]


def test_limits_fall_inside_what_leaves(known: Model) -> None:
    record_of(known).num_updates = MOST_UPDATES
    for num_tokens in range(1, 24):
        assert len(tokens_of(run(context_of(known, dial=0.0, num_tokens=num_tokens)))) == num_tokens


def test_a_text_that_does_not_fit_is_refused_before_any_work(known: Model) -> None:
    context = context_of(known, num_tokens=1000)
    with pytest.raises(CacheFull):
        run(context)
    assert context.sequence.token_ids == [*PROMPT]


def test_a_stop_string_inside_what_left_leaves_the_sequence_at_it(known: Model) -> None:
    def generated(**options: Any) -> tuple[Sequence, list[int]]:
        record_of(known).num_updates = MOST_UPDATES
        sequence = known.new_sequence()
        sequence.append(PROMPT)
        chosen = GenerationOptions(max_new_tokens=40, decode="adaptive", dial=0.1, **options)
        pieces = [*stream(known, sequence, chosen)]
        assert {piece.depth for piece in pieces} == {EXIT, NUM_LAYERS}
        return sequence, [token_id for piece in pieces for token_id in piece.token_ids]

    _, whole = generated()
    text = known.tokenizer.decode(whole)
    for end in range(4, 12):
        sequence, found = generated(stop=(text[end : end + 2],))
        assert found == whole[: len(found)] and sequence.token_ids == [*PROMPT, *found]
        sequence.check()


def test_generations_tell_the_depths_and_the_promise(known: Model) -> None:
    sequence = known.new_sequence()
    sequence.append(PROMPT)
    last = [*stream(known, sequence, GenerationOptions(max_new_tokens=40, decode="adaptive", dial=0.5))][-1]
    assert last.stats is not None and sum(last.stats.depths.values()) == 40
    assert {*last.stats.depths} == {EXIT, NUM_LAYERS}
    assert last.stats.approximate is not None and "estimated above 0.5" in last.stats.approximate


# What it learns


def test_it_learns_from_texts_until_tokens_leave_and_says_what_it_knows(fresh: Model) -> None:
    left, promises = [], []
    for seed in range(4):
        options = SamplingOptions(temperature=1.0, seed=seed)
        promises.append(method_named("adaptive").open(context_of(fresh, options)).promise)
        left.append(left_of(run(context_of(fresh, options, num_tokens=200))))
    assert "not known yet, so tokens that leave are checked until then" in promises[0]
    assert "now after 2 layers above a confidence of 0." in promises[-1]
    assert left[-1] > 0


def test_the_same_texts_in_the_same_order_are_the_same(make_model: Any) -> None:
    texts = []
    for _ in range(2):
        model = make_model()
        texts.append([tokens_of(run(context_of(model, dial=0.5, num_tokens=200))) for _ in range(3)])
    assert texts[0] == texts[1]


def test_the_estimated_chance_is_how_often_tokens_that_leave_are_the_full_models(fresh: Model) -> None:
    dial, agree = 0.7, list[bool]()
    for seed in range(10):
        options = SamplingOptions(temperature=1.0, seed=seed)
        context = context_of(fresh, options, dial=dial, num_tokens=200)
        steps, choose, text = run(context), sampler_for(options).choose, context.sequence.token_ids
        full = np.concatenate([piece[NUM_LAYERS] for piece in depth_logits(fresh, text)])
        at = len(PROMPT)
        for step, _ in steps:
            for token_id in step.token_ids:
                if step.depth == EXIT:
                    agree.append(choose(full[at - 1], text[:at]) == token_id)
                at += 1
    assert len(agree) > 200 and dial - 0.05 < np.mean(agree) < 1


def test_where_no_exit_pays_it_decodes_plainly_unless_forced(known: Model) -> None:
    record = record_of(known)
    record.learn([(0.9, True), (0.1, False)] * UPDATE_EVERY)
    record.mixture = KNOWN
    dear = ExitTimes(1.0, {EXIT: 1.0}, {EXIT: [1.0, 2.0, 9.0]})
    model = Model(known.bundle, known.device)
    model.shared.get("exit times", lambda: dear)
    model.shared.get("adaptive exits", lambda: {EXIT: record})
    assert left_of(run(context_of(model))) == 0
    assert method_named("adaptive").open(context_of(model)).note == NO_EXIT_PAYS
    record.mixture = None
    not_known = method_named("adaptive").open(context_of(model))
    assert "not known yet" in not_known.promise and not_known.note == NO_EXIT_PAYS
    assert method_named("adaptive").open(context_of(model, forced=True)).note == ""
    record.mixture = KNOWN
    assert left_of(run(context_of(model, forced=True))) > 0


def test_a_bundle_without_exits_is_refused(tiny: Model) -> None:
    for dial in (0.5, 1.0):
        with pytest.raises(ConfigError, match=r"no exits.*--exits auto"):
            method_named("adaptive").open(context_of(tiny, dial=dial))
