"""The drafter `free`: an exit drafts while it is sure, learns how sure it must be, and the text stays what it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import OPTIONS, PROMPT, cached_rows, plain_text, sampler_for
from sharp_models import sharp_checkpoint

from skipstone.errors import ConfigError
from skipstone.runtime.costs import MOST_BEHIND, ExitTimes
from skipstone.runtime.decoding import Drafter, PlainDrafter, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import DrafterContext, weighed_methods
from skipstone.runtime.methods.depth import (
    FIRST_THRESHOLD,
    MOST_UPDATES,
    TRY_AGAIN,
    UPDATE_EVERY,
    Beta,
    BetaMixture,
    Exit,
    ExitRecord,
    ExitText,
    FreeDrafter,
    depth_logits,
    open_free,
)
from skipstone.runtime.sampling import SamplingOptions, gap

LATE = {"random": 1.0, "nearly silent": 0.05, "silent": 0.0}
# Calls before the exit cost nothing, calls behind it what the rows say: drafting always pays.
TIMES = ExitTimes(1.0, {1: 0.01, 2: 0.01, 3: 0.01}, {1: [0.9] * 3, 2: [0.5] * 3, 3: [0.6] * 3})
DEAR = ExitTimes(1.0, {1: 1.0, 2: 1.0, 3: 1.0}, {1: [1.0, 2.0, 9.0], 2: [1.0, 2.0, 9.0], 3: [1.0, 2.0, 9.0]})
# Right guesses are surer than wrong ones, so that some guesses are believed; or all right, so that all are.
KNOWN = BetaMixture(Beta(3.0, 3.0), Beta(1.0, 6.0), 0.5)
EASY = BetaMixture(Beta(1.0, 1.0), Beta(1.0, 1.0), 0.5)


@pytest.fixture(scope="module")
def make_model(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Open a tiny model with an exit after each layer, of which the third and fourth add less than they did."""

    def make(late: str, *, precision: str = "fp32", exits: str = "auto") -> Model:
        folder = sharp_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("late") / "sharp", late=LATE[late])
        return Model.open(make_bundle(folder, precision=precision, exits=exits))

    return make


@pytest.fixture(scope="module", params=list(LATE))
def staged(request: pytest.FixtureRequest, make_model: Any) -> Model:
    model: Model = make_model(request.param)
    return model


@pytest.fixture(scope="module")
def silent(make_model: Any) -> Model:
    """A model whose exit after the second layer gives what the whole model gives."""
    model: Model = make_model("silent")
    return model


@pytest.fixture(scope="module")
def nearly(make_model: Any) -> Model:
    """A model whose exit after the second layer mostly gives what the whole model gives."""
    model: Model = make_model("nearly silent")
    return model


def context_of(
    model: Model, options: SamplingOptions = OPTIONS[0], *, stop_ids: Collection[int] = (), **sequence: Any
) -> DrafterContext:
    context = DrafterContext(
        model=model,
        sampler=sampler_for(options, stop_ids),
        sequence=model.new_sequence(**sequence),
        shared=model.shared,
    )
    context.sequence.append(PROMPT)
    return context


def knowing(mixture: BetaMixture | None) -> ExitRecord:
    record = ExitRecord()
    record.mixture = mixture
    return record


def drafter_of(
    context: DrafterContext, records: dict[int, ExitRecord], *, times: ExitTimes = TIMES, **options: Any
) -> FreeDrafter:
    """Return a drafter that uses exits of which so much is known; exits stand after each layer."""
    exits = [
        Exit(
            num_layers=layers,
            num_stages=layers,
            share=layers / 4,
            text=ExitText(context.sequence, layers),
            judge=record,
        )
        for layers, record in records.items()
    ]
    return FreeDrafter(exits, context.sampler, times=times, **options)


def free_of(context: DrafterContext, *, mixture: BetaMixture | None = KNOWN) -> FreeDrafter:
    """Return a drafter that uses the exit after two layers."""
    return drafter_of(context, {2: knowing(mixture)})


def run(
    context: DrafterContext,
    drafter: Drafter,
    *,
    max_new_tokens: int = 24,
    stop_ids: Collection[int] = (),
    look: Callable[[Sequence], None] = Sequence.check,
) -> tuple[list[int], list[Step]]:
    """Return the whole text and the steps; a drafter that fails and is left out is an error."""
    sequence, steps = context.sequence, []
    accept = match(context.sampler, sequence.token_ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=max_new_tokens, stop_ids=stop_ids):
            look(sequence)
            steps.append(step)
    return sequence.token_ids, steps


def num_drafted(steps: list[Step]) -> int:
    return sum(step.num_drafted for step in steps)


# The text


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding_and_every_stage_caches_it(staged: Model, options: SamplingOptions) -> None:
    fresh = staged.new_sequence()

    def look(sequence: Sequence) -> None:
        sequence.check()
        fresh.rollback(0)
        fresh.append(sequence.token_ids[: sequence.num_cached])
        fresh.extend(Draft.empty())
        for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)

    context = context_of(staged, options)
    text, steps = run(context, free_of(context), look=look)
    assert text == plain_text(staged, options, 24)
    assert num_drafted(steps) > 0


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_while_it_learns_the_text_stays_that_of_plain_decoding(staged: Model, options: SamplingOptions) -> None:
    wanted = plain_text(staged, options, 40)
    for _ in range(3):  # what is learned of one text serves the next
        context = context_of(staged, options)
        assert run(context, open_free(context), max_new_tokens=40)[0] == wanted


@pytest.mark.parametrize("precision", ["fp32", "int4", "int8"])
def test_exact_texts_have_the_bits_of_plain_decoding(make_model: Any, precision: str) -> None:
    model = make_model("nearly silent", precision=precision)
    for options in OPTIONS[:3]:
        found, wanted = (context_of(model, options, exact=True) for _ in range(2))
        bits, plain_bits = list[bytes](), list[bytes]()
        drafter, accept = free_of(found), match(found.sampler, found.sequence.token_ids)
        for step in decode(found.sequence, drafter=drafter, accept=accept, max_new_tokens=60, stop_ids=()):
            bits += [row.tobytes() for row in step.logits]
        accept = match(wanted.sampler, wanted.sequence.token_ids)
        for step in decode(wanted.sequence, drafter=PlainDrafter(), accept=accept, max_new_tokens=60, stop_ids=()):
            plain_bits.append(step.logits[0].tobytes())
        assert found.sequence.token_ids == wanted.sequence.token_ids
        assert bits == plain_bits


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_no_stage_sees_a_token_twice_while_all_guesses_stand(
    silent: Model, fed: list[tuple[int, ...]], exact: bool
) -> None:
    context = context_of(silent, exact=exact)
    drafter = free_of(context)
    drafter.threshold = -1.0
    steps = decode(
        context.sequence,
        drafter=drafter,
        accept=match(context.sampler, context.sequence.token_ids),
        max_new_tokens=100,
        stop_ids=(),
    )
    next(steps)
    fed.clear()
    step = next(steps)
    assert (step.num_drafted, step.num_accepted) == (MOST_BEHIND, MOST_BEHIND)
    assert [shape[1] for shape in fed] == [1] * MOST_BEHIND + [1, MOST_BEHIND + 1]


def test_the_chain_ends_before_the_first_unsure_guess(silent: Model) -> None:
    lengths = set()
    for pending_id in range(60, 90):
        context = context_of(silent)
        context.sequence.extend(Draft.empty())
        context.sequence.commit([pending_id])
        drafter = free_of(context)
        draft = drafter.propose(context.sequence.token_ids, limit=12)
        gaps = [confidence for _, confidence in drafter.guesses]
        assert min([1.0, *gaps[: len(draft)]]) > drafter.threshold
        assert len(draft) == 12 or (len(gaps) == len(draft) + 1 and gaps[-1] <= drafter.threshold)
        lengths.add(len(draft))
    assert len(lengths) > 3


def test_the_text_ends_at_a_stop_token_inside_the_draft(silent: Model) -> None:
    text = plain_text(silent, OPTIONS[0], 24)
    for at in range(len(PROMPT), len(text)):
        stop_ids = (text[at],)
        context = context_of(silent, stop_ids=stop_ids)
        found, _ = run(context, free_of(context, mixture=EASY), stop_ids=stop_ids)
        assert found == text[: text.index(text[at], len(PROMPT)) + 1]


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_limits_and_the_end_of_the_context_fall_inside_the_draft(silent: Model, exact: bool) -> None:
    text = plain_text(silent, OPTIONS[0], 24)
    for num_tokens in range(1, 24):
        length = len(PROMPT) + num_tokens
        context = context_of(silent, exact=exact, context_length=length)
        found, _ = run(context, free_of(context, mixture=EASY), max_new_tokens=num_tokens)
        assert found == text[:length]
        assert context.sequence.room == 0


# What is learned


class Noting(ExitRecord):
    """Keeps all pairs in order."""

    def __init__(self) -> None:
        super().__init__()
        self.mixture = KNOWN
        self.noted: list[tuple[float, bool]] = []

    def learn(self, pairs: SequenceOf[tuple[float, bool]]) -> None:
        self.noted += pairs
        super().learn(pairs)


def test_every_token_that_the_exit_guessed_is_a_pair_of_what_a_prefill_says(nearly: Model) -> None:
    """The slow twin: the text at once through the exit and through the whole model."""
    context = context_of(nearly)
    record = Noting()
    run(context, drafter_of(context, {2: record}), max_new_tokens=100)
    pairs = record.noted
    text = context.sequence.token_ids
    logits = [*depth_logits(nearly, text)]
    of_exit, full = (np.concatenate([piece[depth] for piece in logits])[len(PROMPT) : -1] for depth in (2, 4))
    wanted = [*zip(gap(of_exit), of_exit.argmax(axis=1) == full.argmax(axis=1), strict=True)]
    assert {right for _, right in pairs} == {False, True}
    at = 0
    for confidence, right in pairs:  # where 16 guesses stood, and at the end, a token was made without a guess
        while abs(wanted[at][0] - confidence) > 1e-4:
            at += 1
        assert wanted[at][1] == right
        at += 1
    assert len(pairs) > 80


def test_what_texts_teach_is_kept_for_the_next(make_model: Any) -> None:
    model, learned = make_model("nearly silent", exits="2"), []
    model.shared.get("exit times", lambda: TIMES)
    for seed in range(4):
        context = context_of(model, SamplingOptions(temperature=1.0, seed=seed))
        drafter = open_free(context)
        assert isinstance(drafter, FreeDrafter)
        learned.append((drafter.is_learned, drafter.threshold))
        run(context, drafter, max_new_tokens=200)
    assert learned[0] == (False, FIRST_THRESHOLD)
    assert learned[-1][0] and learned[-1][1] < FIRST_THRESHOLD


def feed(record: ExitRecord, num_pairs: int, *, seed: int = 0, each: int = 1) -> None:
    """Show guesses of which the right ones are surer."""
    random = np.random.default_rng(seed)
    pairs = [
        (float(random.beta(6, 2) if right else random.beta(2, 6)), bool(right))
        for right in random.random(num_pairs) < 0.6
    ]
    for start in range(0, num_pairs, each):
        record.learn(pairs[start : start + each])


def test_a_record_starts_at_the_first_threshold_and_moves_when_enough_is_seen() -> None:
    record = ExitRecord()
    assert record.threshold(0.4) == FIRST_THRESHOLD and record.num_updates == 0
    record.learn([(0.5, True)] * 10 * UPDATE_EVERY)
    assert record.threshold(0.4) == FIRST_THRESHOLD and record.num_updates > 0, "all are of one kind"
    feed(record, 4 * UPDATE_EVERY)
    assert record.mixture is not None and record.threshold(0.4) < FIRST_THRESHOLD


def test_what_is_known_stays_where_later_pairs_tell_too_little() -> None:
    record = ExitRecord()
    feed(record, 200)
    before = record.mixture
    record.learn([(0.5, True)] * 3000)
    assert before is not None and record.mixture == before


def test_after_300_updates_nothing_changes_any_more() -> None:
    record = ExitRecord()
    feed(record, MOST_UPDATES * UPDATE_EVERY, each=8)
    assert record.num_updates == MOST_UPDATES
    before = record.mixture
    feed(record, 1000, seed=1)
    assert (record.mixture, record.num_updates) == (before, MOST_UPDATES)


def test_a_chance_that_nothing_has_is_never_believed() -> None:
    assert knowing(KNOWN).threshold(1.0) == inf


def test_the_share_of_sure_guesses_starts_at_the_prior_and_goes_to_what_was_seen() -> None:
    record = ExitRecord()
    assert record.share(0.5, prior=0.25, right_only=False) == 0.25
    record.learn([(0.9, True), (0.9, False)] * 8 * UPDATE_EVERY)
    assert record.share(0.5, prior=0.25, right_only=False) == pytest.approx(1.0, abs=0.06)
    assert record.share(0.5, prior=0.25, right_only=True) == pytest.approx(0.5, abs=0.03)
    assert record.share(0.95, prior=0.0, right_only=False) == 0


# Which exit, and whether any


def test_the_exit_that_promises_the_most_drafts(silent: Model) -> None:
    context, chosen = context_of(silent), []
    for sure, unsure in ((1, 3), (3, 1)):
        records = {1: ExitRecord(), 3: ExitRecord()}
        records[sure].learn([(0.95, True)] * 2000)
        records[unsure].learn([(0.05, True)] * 2000)
        chosen.append(drafter_of(context, records).used.num_layers)
    assert chosen == [1, 3]


def test_where_no_exit_pays_one_drafts_now_and_then(silent: Model) -> None:
    record = knowing(EASY)
    context = context_of(silent)
    text, steps = run(context, drafter_of(context, {2: record}, times=DEAR), max_new_tokens=60)
    first = [number for number, step in enumerate(steps) if step.num_drafted]
    assert num_drafted(steps) >= UPDATE_EVERY and first[-1] < len(steps) - 20, "tried until it is known"
    context = context_of(silent)
    drafter, asked = drafter_of(context, {2: record}, times=DEAR), list[bool]()

    def look(sequence: Sequence) -> None:
        asked.append(sequence.num_peeked > 0)

    text, _ = run(context, drafter, max_new_tokens=TRY_AGAIN + 20, look=look)
    assert text == plain_text(silent, OPTIONS[0], TRY_AGAIN + 20)
    assert [number for number, was in enumerate(asked) if was] == [TRY_AGAIN]
    context = context_of(silent)
    _, steps = run(context, drafter_of(context, {2: record}, times=DEAR, min_gain=0.0))
    assert num_drafted(steps) > MOST_BEHIND


@pytest.mark.parametrize("final", [False, True])
def test_early_tokens_must_be_surer_where_places_are_given(silent: Model, final: bool) -> None:
    context = context_of(silent)
    drafter = drafter_of(context, {2: knowing(KNOWN)}, final=final, places=range(4, 132))
    found = [drafter.threshold_at(place) for place in range(4, 200)]
    assert found == sorted(found, reverse=True) and min(found) >= drafter.threshold
    assert found[0] == pytest.approx(drafter.threshold / 0.9)
    drafter.threshold = 0.81  # so that the first is .9
    assert [drafter.threshold_at(4 + at) for at in (0, 1, 32, 128)] == pytest.approx(
        [0.90000, 0.89723, 0.84311, 0.81165], abs=5e-6
    )
    drafter.threshold = inf
    assert drafter.threshold_at(4) == inf
    plain = drafter_of(context, {2: knowing(KNOWN)})
    assert {plain.threshold_at(place) for place in range(4, 200)} == {plain.threshold}


# What opens


@pytest.mark.parametrize("size", [5, 8, 16, 18])
def test_it_opens_in_contexts_shorter_than_the_calls_that_are_measured(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, size: int
) -> None:
    model = Model.open(make_bundle(make_checkpoint(max_position_embeddings=size), exits="auto"))
    context, num_new = context_of(model), size - len(PROMPT)
    text, _ = run(context, open_free(context), max_new_tokens=num_new)
    assert text == plain_text(model, OPTIONS[0], num_new)


def test_a_bundle_without_exits_says_how_to_make_them(tiny: Model) -> None:
    with pytest.raises(ConfigError, match=r"no exits.*--exits auto"):
        open_free(context_of(tiny))


def test_rules_that_draw_by_chance_are_refused(silent: Model) -> None:
    context = context_of(silent)
    drawn = DrafterContext(model=silent, sampler=context.sampler, sequence=context.sequence, rule="rejection")
    with pytest.raises(ConfigError, match="free has no laws of its guesses"):
        open_free(drawn)


def test_each_exit_of_the_bundle_may_draft_and_auto_does_not_weigh_it(silent: Model) -> None:
    drafter = open_free(context_of(silent))
    assert isinstance(drafter, FreeDrafter)
    assert [one.num_layers for one in drafter.exits] == [1, 2, 3]
    assert "free" not in [method.name for method in weighed_methods(silent)]
