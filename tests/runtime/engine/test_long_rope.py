"""LongRoPE: a text that grows past a border is fed again with other angles, and no reader or drafter sees a seam."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, ScriptedDrafter, WildDrafter, leave_out, plain_text, run, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from numpy.typing import NDArray

from skipstone.conversation import Conversation
from skipstone.errors import CacheFull, ConfigError
from skipstone.evaluate import score
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.costs import CostCurve
from skipstone.runtime.decoding import Guard
from skipstone.runtime.engine import Draft, Model, SharedStores, open_branches
from skipstone.runtime.generation import Generation, GenerationOptions, stream
from skipstone.runtime.methods import DrafterContext, open_drafter, registered_drafters
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import ChatTemplate
from tests.runtime.decoding.test_guard import Saying
from tests.runtime.engine.test_sequence import CAPACITY, Machine, assert_close, chain, fresh_logits, token_lists
from tests.runtime.generation.test_batch import alone, assert_same, together
from tests.sdk.test_conversation import FREE, TEMPLATE, fresh_answer, prompt_ids, say

Logits = NDArray[np.float32]
ReferenceLogits = Callable[[Path, tuple[int, ...]], Logits]
WithStopIds = Callable[[Model, Collection[int]], Model]
BORDER = 16
PHI: dict[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "initializer_range": 0.15,
    "original_max_position_embeddings": BORDER,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1 + pair / 6 for pair in range(6)],
        "long_factor": [3 + pair / 2 for pair in range(6)],
    },
}
CURVE = CostCurve(rows=(1, 16), contexts=(0,), seconds=((0.001, 0.0015),))
TEXT: list[int] = np.random.default_rng(0).integers(3, 300, size=40).tolist()
NEW = 24  # behind a prompt of four tokens: across the border, and some way on


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("phi3", **PHI)


@pytest.fixture(scope="session")
def phi(checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """A tiny Phi-3 that turns otherwise in texts of more than 16 tokens, and so does its drafter; four stages."""
    small = make_checkpoint("phi3", **PHI | {"num_hidden_layers": 1, "intermediate_size": 16})
    model = Model.open(make_bundle(checkpoint, exits="2", cuts="each", drafter=small))
    assert model.manifest.long_rope_from == BORDER
    return model


@pytest.fixture(scope="session")
def windowed(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """One whose layers see five tokens, so that it takes no trees."""
    return Model.open(make_bundle(make_checkpoint("phi3", **PHI | {"sliding_window": 5})))


@pytest.fixture(scope="session", params=["full", "windowed"])
def model(request: pytest.FixtureRequest, phi: Model, windowed: Model) -> Model:
    return phi if request.param == "full" else windowed


@pytest.fixture
def endless(phi: Model, with_stop_ids: WithStopIds) -> Model:
    """The model with a made-up cost curve, as a new process opens it; no token ends a text."""
    fresh = copy.copy(with_stop_ids(phi, ()))
    fresh.shared = SharedStores()
    fresh.shared.get("cost curve", lambda: CURVE)
    return leave_out(fresh, 1)


def test_the_border_matters(phi: Model) -> None:
    """Else the tests here would find nothing."""
    bundle = Bundle(path=phi.bundle.path, manifest=replace(phi.manifest, long_rope_from=None))
    other = Model(bundle, phi.device)
    assert np.abs(fresh_logits(other, TEXT[:20]) - fresh_logits(phi, TEXT[:20])).max() > 0.1
    assert_close(fresh_logits(other, TEXT[:16]), fresh_logits(phi, TEXT[:16]))


# The sequence


class LongMachine(Machine):
    """Does the same near a border that no draft may cross."""

    def __init__(self, model: Model, *, exact: bool) -> None:
        super().__init__(model, exact=exact)
        self.append(TEXT[: BORDER - 4])

    @rule(length=st.integers(BORDER - 3, CAPACITY))
    def read_on(self, length: int) -> None:
        """Let the text grow to `length` token by token, as plain decoding does."""
        for token_id in TEXT[len(self.text) : length]:
            self.append([token_id])
            self.extend(Draft.empty())

    @rule(length=st.integers(BORDER - 3, BORDER + 1))
    def go_back(self, length: int) -> None:
        self.rollback(max(0, len(self.text) - length))
        self.extend(Draft.empty())

    @rule(draft=trees(max_size=7) | token_lists.map(lambda guesses: chain(guesses)))
    def extend(self, draft: Draft) -> None:
        crosses = len(self.text) <= BORDER < len(self.text) + len(draft)
        assert self.sequence.draft_room == min(
            self.sequence.room, BORDER - len(self.text) if len(self.text) <= BORDER else CAPACITY
        )
        if not self.text or not crosses or len(self.text) + len(draft) > CAPACITY:
            super().extend(draft)
            return
        before = self.sequence.num_cached
        with pytest.raises(ConfigError, match="positions change after"):
            self.sequence.extend(draft)
        assert self.sequence.num_cached == before


@pytest.mark.parametrize(("exact", "piece"), [(False, 5), (True, 256)])
def test_any_order_of_operations_around_the_border_gives_the_logits_of_a_fresh_sequence(
    model: Model, exact: bool, piece: int
) -> None:
    model = Model(model.bundle, model.device, prefill_chunk=piece)
    run_state_machine_as_test(
        lambda: LongMachine(model, exact=exact),
        settings=settings(max_examples=15, stateful_step_count=12, deadline=None),
    )


def test_up_and_down_over_the_border_the_logits_are_those_of_transformers(
    phi: Model, checkpoint: Path, reference_logits: ReferenceLogits
) -> None:
    sequence = phi.new_sequence()
    lengths = [14, 15, 16, 17, 18, 16, 17, 14, 20, 15, 16, 24, 30, 16, 40, 1, 17]
    for length in lengths:
        sequence.rollback(min(length, len(sequence.token_ids)))
        sequence.append(TEXT[len(sequence.token_ids) : length])
        assert_close(sequence.extend(Draft.empty())[0], reference_logits(checkpoint, tuple(TEXT[:length]))[-1])
        sequence.check()


def test_the_whole_text_is_fed_at_the_call_that_crosses_and_at_no_other(phi: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = phi.new_sequence()
    sequence.append(TEXT[:14])
    for token_id in TEXT[14:20]:
        sequence.extend(Draft.empty())
        sequence.commit([token_id])
    assert fed == [(1, 14), (1, 1), (1, 1), (1, 17), (1, 1), (1, 1)]
    fed.clear()
    for length in (18, 16, 15):
        sequence.rollback(length)
        sequence.extend(Draft.empty())
    assert fed == [(1, 1), (1, 16), (1, 1)]


def test_a_prompt_beyond_the_border_is_fed_once(phi: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = phi.new_sequence()
    sequence.append(TEXT[:20])
    sequence.extend(chain(TEXT[20:25]))
    assert fed == [(1, 25)]


# Drafts


@pytest.mark.parametrize(
    ("length", "room"), [(1, 15), (13, 3), (14, 2), (15, 1), (16, 0), (17, 15), (20, 12), (31, 1), (32, 0)]
)
def test_a_drafter_is_asked_for_no_more_than_fits_before_the_border(
    phi: Model, fed: list[tuple[int, ...]], length: int, room: int
) -> None:
    sequence = phi.new_sequence(context_length=32)
    sequence.append(TEXT[:length])
    assert sequence.draft_room == room
    drafter = Saying()
    Guard(drafter, sequence).propose(30)
    assert [limit for _, limit, _ in drafter.asked] == ([room] if room else [])
    with pytest.raises((CacheFull, ConfigError)):
        sequence.extend(chain(TEXT[length:][: room + 1]))
    assert fed == []
    sequence.extend(chain(TEXT[length : length + room]))


def test_a_drafter_that_crosses_the_border_is_left_out(phi: Model) -> None:
    sequence = phi.new_sequence()
    sequence.append(TEXT[:14])
    with pytest.warns(RuntimeWarning, match="3 tokens proposed, 2 were asked for"):
        assert len(Guard(Saying(chain([5, 6, 7])), sequence).propose(3)) == 0


@given(plan=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=NEW), options=st.sampled_from(OPTIONS))
@settings(max_examples=15, deadline=None)
def test_any_chain_of_guesses_right_and_wrong_gives_the_text_of_plain_decoding(
    phi: Model, plan: list[tuple[int, int]], options: SamplingOptions
) -> None:
    truth = truth_of(phi, options)
    assert run(phi, ScriptedDrafter(truth, iter(plan)), options=options, max_new_tokens=NEW)[0] == truth


@pytest.mark.parametrize("branches", [False, True])
@given(seed=st.integers(0, 2**20))
@settings(max_examples=10, deadline=None)
def test_any_wild_drafter_gives_the_text_of_plain_decoding(phi: Model, branches: bool, seed: int) -> None:
    truth = truth_of(phi, GREEDY)
    made, steps = run(phi, WildDrafter(truth, seed, branches=branches, share=0.8), max_new_tokens=NEW)
    assert made == truth
    length = len(PROMPT)
    for step in steps:
        assert length > BORDER or length + step.num_drafted <= BORDER
        length += len(step.token_ids)


def truth_of(model: Model, options: SamplingOptions) -> list[int]:
    return plain_text(model, options, NEW)


# `sparse` needs experts, which these models lack.
DRAFTERS = [name for name in registered_drafters() if name != "sparse"] + ["auto", "ngram,model", "suffix,recycle"]


def generated(model: Model, length: int, **options: Any) -> Generation:
    chosen = GenerationOptions(max_new_tokens=NEW, **options)
    sequence = model.new_sequence(exact=chosen.exact)
    sequence.append(TEXT[:length])
    return Generation.join(list(stream(model, sequence, chosen)))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("length", [4, 15, 16])
@pytest.mark.parametrize("decode", DRAFTERS)
def test_every_drafter_gives_the_text_of_plain_decoding_and_none_is_left_out(
    endless: Model, decode: str, length: int
) -> None:
    wanted = generated(endless, length, decode="plain")
    for _ in range(2):  # what a drafter keeps of the first text serves the second
        assert generated(endless, length, decode=decode).token_ids == wanted.token_ids


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("decode", [name for name in DRAFTERS if name not in ("tree", "lookahead")])
def test_in_exact_mode_drafts_change_no_bit(endless: Model, decode: str) -> None:
    for length in (4, 15, 16):
        wanted = generated(endless, length, decode="plain", exact=True, logprobs=3)
        found = generated(endless, length, decode=decode, exact=True, logprobs=3)
        assert (found.token_ids, found.logprobs) == (wanted.token_ids, wanted.logprobs)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_drafters_do_draft_on_both_sides_of_the_border(endless: Model) -> None:
    """Else the tests above would say nothing."""
    generated(endless, 4, decode="suffix")
    again = generated(endless, 4, decode="suffix")
    assert again.stats.model_calls < NEW / 2
    assert generated(endless, 4, decode="model").stats.drafters["model"].drafted > 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("decode", ["model", "async-model", "tree", "staged"])
@pytest.mark.parametrize(
    ("target", "drafter"), [(None, 16), (16, None), (16, 22), (22, 16)], ids=lambda border: f"{border or 'no'} border"
)
def test_target_and_drafter_may_have_borders_of_their_own(
    target: int | None,
    drafter: int | None,
    decode: str,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    with_stop_ids: WithStopIds,
) -> None:
    def bordered(border: int | None, **config: object) -> Path:
        if border is None:
            return make_checkpoint("llama", **config)
        return make_checkpoint("phi3", **PHI | {"original_max_position_embeddings": border} | config)

    small = bordered(drafter, num_hidden_layers=1, intermediate_size=16)
    model = with_stop_ids(Model.open(make_bundle(bordered(target), drafter=small)), ())
    assert generated(model, 4, decode=decode).token_ids == generated(model, 4, decode="plain").token_ids


# Several texts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_of_a_batch_that_cross_at_different_times_are_those_that_each_gets_alone(
    model: Model, with_stop_ids: WithStopIds, temperature: float
) -> None:
    endless = with_stop_ids(model, ())
    options = GenerationOptions(
        max_new_tokens=NEW, decode="plain", logprobs=2, sampling=SamplingOptions(temperature=temperature, seed=5)
    )
    prompts = [TEXT[:length] for length in (1, 5, 14, 15, 16, 17, 30)]
    wanted = [alone(endless, prompt, options) for prompt in prompts]
    for context_length in (None, 30 + NEW):
        assert_same(together(endless, prompts, options, context_length=context_length), wanted)


def test_texts_of_a_batch_that_end_at_the_border_disturb_no_other(model: Model, with_stop_ids: WithStopIds) -> None:
    options = GenerationOptions(max_new_tokens=NEW, decode="plain")
    prompts = [TEXT[:length] for length in (14, 13, 15, 16, 12)]
    free = [alone(with_stop_ids(model, ()), prompt, options).token_ids for prompt in prompts]
    stopping = with_stop_ids(model, {free[0][1], free[1][3], free[2][1], free[3][0]})
    wanted = [alone(stopping, prompt, options) for prompt in prompts]
    assert len({len(generation.token_ids) for generation in wanted}) > 1
    assert_same(together(stopping, prompts, options), wanted)


def test_samples_of_one_prompt_are_those_of_their_seeds(endless: Model) -> None:
    language_model = LanguageModel(endless)
    prompt = "def add(first"
    assert len(language_model.encode(prompt)) < BORDER
    options = {"max_new_tokens": NEW, "temperature": 1.0, "decode": "plain"}
    wanted = [language_model.generate(prompt, seed=seed, **options).token_ids for seed in (7, 8, 9)]
    for first in (None, 3):
        made = [sample.token_ids for sample in language_model.samples(prompt, 3, first=first, seed=7, **options)]
        assert made == wanted


@pytest.mark.parametrize("length", [BORDER - 3, BORDER + 3])
def test_branches_that_cross_or_begin_behind_the_border_are_each_as_alone(model: Model, length: int) -> None:
    sequence = model.new_sequence()
    sequence.append(TEXT[:length])
    with open_branches(sequence, most=2, steps=5) as branches:
        branches.reorder([0, 0])
        for place in range(5):
            rows = branches.step([20 + place, 30 + place]).copy()
            for row, first_id in zip(rows, (20, 30), strict=True):
                text = model.new_sequence()
                text.append([*TEXT[:length], *range(first_id, first_id + place + 1)])
                np.testing.assert_allclose(row, text.extend(Draft.empty())[0], rtol=0, atol=1e-4)
    assert sequence.token_ids == list(TEXT[:length])


# Chats


@pytest.mark.parametrize("with_template", [True, False])
@pytest.mark.parametrize("decode", ["plain", "suffix"])
def test_a_chat_that_crosses_the_border_answers_as_a_fresh_model_does(
    endless: Model, with_template: bool, decode: str
) -> None:
    model = copy.copy(endless)
    model.chat_template = ChatTemplate(TEMPLATE.replace("assistant", "a")) if with_template else None
    options = GenerationOptions(max_new_tokens=4, decode=decode)
    conversation, lengths = Conversation(model), list[int]()
    for text in ("Hi", "a", "fox", "bye", "or", "stay"):
        token_ids = prompt_ids(model, conversation, text)
        lengths.append(len(token_ids))
        assert say(conversation, text, options).token_ids == fresh_answer(model, token_ids, options).token_ids
    assert lengths[-1] > BORDER and (with_template or lengths[0] < BORDER)


def test_a_chat_that_is_cut_back_before_the_border_answers_as_a_fresh_model_does(endless: Model) -> None:
    model = copy.copy(endless)
    model.chat_template = None
    conversation = Conversation(model)
    for text in ("Hello there,", "and a fox?"):
        say(conversation, text, FREE)
    assert len(conversation.token_ids) > BORDER
    conversation.messages = conversation.messages[:1]
    token_ids = prompt_ids(model, conversation, "x")
    assert len(token_ids) < BORDER
    assert say(conversation, "x").token_ids == fresh_answer(model, token_ids, FREE).token_ids


@pytest.mark.parametrize("length", [10, 14, 15, 16, 17])
@pytest.mark.parametrize("name", ["model", "async-model", "tree", "staged"])
def test_a_small_model_guesses_up_to_its_own_border(
    name: str, length: int, tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    small = make_checkpoint("phi3", **PHI | {"num_hidden_layers": 1, "intermediate_size": 16})
    model = Model.open(make_bundle(tiny_checkpoint, drafter=small))
    sequence = model.new_sequence()
    sequence.append(TEXT[:length])
    context = DrafterContext(model=model, sampler=Sampler(greedy=True), sequence=sequence, shared=model.shared)
    drafter = open_drafter(name, context)
    for _ in range(2):
        draft = drafter.propose(sequence.token_ids, limit=8, min_chance=1e-12)
        assert len(draft) == min(8, BORDER - length if length <= BORDER else 8)


def test_a_text_is_scored_across_the_border(phi: Model, checkpoint: Path, reference_logits: ReferenceLogits) -> None:
    targets, found = zip(*((ids, logits.copy()) for ids, logits in score(phi, TEXT)), strict=True)
    assert np.concatenate(targets).tolist() == TEXT[1:]
    for end, logits in enumerate(np.concatenate(found), start=1):
        assert_close(logits, reference_logits(checkpoint, tuple(TEXT[:end]))[-1])
