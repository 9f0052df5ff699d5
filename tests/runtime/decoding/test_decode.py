"""The decoding loop: whatever a drafter guesses, the tokens are those of plain decoding, one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import (
    GREEDY,
    MISDEEDS,
    OPTIONS,
    PROMPT,
    VOCAB_SIZE,
    ScriptedDrafter,
    WildDrafter,
    fail,
    grown,
    plain_text,
    run,
    sampler_for,
    trees,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import CacheFull
from skipstone.runtime.decoding import Drafter, PlainDrafter, Round, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.sampling import Sampler, SamplingOptions

NUM_TOKENS = 16
MAY_BRANCH = {"one stage": True, "four stages": True, "windows of 5": False, "int8 cache": True}
Truth = Callable[[SamplingOptions], list[int]]


@pytest.fixture(scope="session", params=list(MAY_BRANCH))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def model(
    kind: str, tiny: Model, tiny_stages: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Model:
    if kind == "windows of 5":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2"))
    if kind == "int8 cache":
        return Model.open(make_bundle(make_checkpoint(), exits="auto", cache="int8"))
    return tiny if kind == "one stage" else tiny_stages


@pytest.fixture(scope="session")
def truth(model: Model) -> Truth:
    """Return the prompt and sixteen tokens after it, made the slow way, once for each of `OPTIONS`."""
    found: dict[int, list[int]] = {}

    def of(options: SamplingOptions) -> list[int]:
        index = OPTIONS.index(options)
        if index not in found:
            found[index] = plain_text(model, options, NUM_TOKENS)
        return found[index]

    return of


@pytest.fixture(scope="session")
def greedy_text(tiny: Model) -> list[int]:
    text = plain_text(tiny, GREEDY, NUM_TOKENS)
    assert len(set(text)) > 8, "a text that only repeats itself would be too easy to guess"
    return text


plans = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=NUM_TOKENS)
seeds = st.integers(0, 2**32)


# Any drafter, the same text


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_without_a_drafter_the_loop_gives_the_plain_text(model: Model, truth: Truth, options: SamplingOptions) -> None:
    text, steps = run(model, PlainDrafter(), options=options)
    assert text == truth(options)
    assert [(len(step.token_ids), step.num_drafted, step.drafter) for step in steps] == [(1, 0, "plain")] * NUM_TOKENS


@pytest.mark.filterwarnings("error")
@given(plan=plans, options=st.sampled_from(OPTIONS))
@settings(max_examples=30, deadline=None)
def test_any_mix_of_right_and_wrong_guesses_gives_the_plain_text(
    model: Model, truth: Truth, plan: list[tuple[int, int]], options: SamplingOptions
) -> None:
    text = truth(options)
    assert run(model, ScriptedDrafter(text, iter(plan)), options=options)[0] == text


@pytest.mark.filterwarnings("error")
@given(seed=seeds, options=st.sampled_from(OPTIONS), share=st.sampled_from([0.0, 0.5, 0.9]), branches=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_chains_and_trees_give_the_plain_text(
    model: Model, kind: str, truth: Truth, seed: int, options: SamplingOptions, share: float, branches: bool
) -> None:
    drafter = WildDrafter(truth(options), seed, branches=branches and MAY_BRANCH[kind], share=share)
    text, steps = run(model, drafter, options=options)
    assert text == truth(options)
    assert {step.drafter for step in steps[1:]} <= {"wild", "plain"}


class Misbehaving(WildDrafter):
    """Guesses at random until it does something wrong when it is asked, or told, for the `at`-th time."""

    def __init__(self, truth: SequenceOf[int], seed: int, *, branches: bool, misdeed: str, at: int) -> None:
        super().__init__(truth, seed, branches=branches)
        self._misdeed, self._at = misdeed, at
        self.num_asked = self.num_told = 0

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.num_asked += 1
        if self._misdeed in MISDEEDS and self.num_asked == self._at:
            draft: Draft = MISDEEDS[self._misdeed](limit)
            return draft
        return super().propose(history, limit=limit)

    def observe(self, seen: Round) -> None:
        self.num_told += 1
        if self._misdeed == "fails to learn" and self.num_told == self._at:
            fail()

    def finish(self, history: SequenceOf[int]) -> None:
        if self._misdeed == "fails at the end":
            fail()

    @property
    def has_failed(self) -> bool:
        """Whether it came to that."""
        count = self.num_asked if self._misdeed in MISDEEDS else self.num_told
        return self._misdeed == "fails at the end" or count == self._at


@given(
    seed=seeds,
    options=st.sampled_from(OPTIONS),
    misdeed=st.sampled_from([*MISDEEDS, "fails to learn", "fails at the end"]),
    at=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_a_drafter_that_does_wrong_changes_nothing_but_the_speed(
    model: Model, kind: str, truth: Truth, seed: int, options: SamplingOptions, misdeed: str, at: int
) -> None:
    drafter = Misbehaving(truth(options), seed, branches=MAY_BRANCH[kind], misdeed=misdeed, at=at)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        text, _ = run(model, drafter, options=options)
    assert text == truth(options)
    assert [warning.category for warning in said] == [RuntimeWarning] * drafter.has_failed
    assert max(drafter.num_asked, drafter.num_told) <= at or not drafter.has_failed or misdeed == "fails at the end"


@given(seed=seeds, branches=st.booleans())
@settings(max_examples=15, deadline=None)
def test_guesses_in_numbers_of_numpy_give_the_plain_text(
    tiny: Model, greedy_text: list[int], seed: int, branches: bool
) -> None:
    class Numpy(WildDrafter):
        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            draft = super().propose(history, limit=limit)
            token_ids, parents = np.array(draft.token_ids, np.int32), np.array(draft.parents, np.int64)
            return Draft(tuple(token_ids), draft.source, tuple(parents))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tiny, Numpy(greedy_text, seed, branches=branches))[0] == greedy_text


class OneDraft(Drafter):
    """Always has the same answer."""

    name = "one"

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.num_asked = 0

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.num_asked += 1
        return self._draft.keep(range(1, min(limit, len(self._draft)) + 1))


@pytest.mark.filterwarnings("ignore:drafter one failed:RuntimeWarning")  # with windows, as the next test says
@given(tree=trees(), options=st.sampled_from(OPTIONS))
@settings(max_examples=30, deadline=None)
def test_any_one_tree_again_and_again_gives_the_plain_text(
    model: Model, truth: Truth, tree: Draft, options: SamplingOptions
) -> None:
    assert run(model, OneDraft(tree), options=options)[0] == truth(options)


def test_a_tree_is_left_out_where_layers_see_a_window(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, greedy_text: list[int]
) -> None:
    windowed = Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2"))
    drafter = OneDraft(Draft((5, 6), "one", (0, 0)))
    with pytest.warns(RuntimeWarning, match="drafter one failed .*: this sequence takes chains only") as said:
        text, _ = run(windowed, drafter)
    assert text == plain_text(windowed, GREEDY, NUM_TOKENS)
    assert (len(said), drafter.num_asked) == (1, 1)


def test_another_seed_gives_another_text(tiny: Model) -> None:
    texts = {tuple(plain_text(tiny, SamplingOptions(temperature=1.0, seed=seed), 8)) for seed in range(4)}
    assert len(texts) == 4


# Calls


def test_right_guesses_save_model_calls(tiny: Model, greedy_text: list[int]) -> None:
    _, steps = run(tiny, ScriptedDrafter(greedy_text, iter([(4, 0), (4, 2), (0, 4), (9, 0)])))
    assert [len(step.token_ids) for step in steps] == [1, 5, 5, 1, 4]
    assert [step.num_drafted for step in steps] == [0, 4, 6, 4, 3]
    assert [step.num_accepted for step in steps] == [0, 4, 4, 0, 3]
    assert [step.drafter for step in steps] == ["plain", *["scripted"] * 4]


def test_the_right_branch_of_a_tree_is_taken(tiny: Model, greedy_text: list[int]) -> None:
    first, second, third = greedy_text[len(PROMPT) + 1 :][:3]
    others = [token_id for token_id in range(3, 9) if token_id not in (first, second, third)]
    draft = grown([(0, others[0]), (0, first), (1, first), (2, others[1]), (2, second), (4, third)], source="one")
    assert draft.path([first, second, third]) == [0, 2, 5], "the third guess stands behind another branch"
    _, steps = run(tiny, OneDraft(draft), max_new_tokens=4 + len(draft))
    assert steps[1].token_ids == [first, second, third]
    assert (steps[1].num_drafted, steps[1].num_accepted) == (6, 2)


def test_the_prompt_is_fed_without_a_draft_and_so_is_what_was_given_since(tiny: Model, greedy_text: list[int]) -> None:
    for prompt in ([5], [5, 6], [*range(5, 40)]):
        sequence = tiny.new_sequence()
        sequence.append(prompt)
        for turn in range(2):
            drafter = OneDraft(Draft((8, 9), "one", (0, 0)))
            accept = match(sampler_for(GREEDY), sequence.token_ids)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                steps = list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=6, stop_ids=()))
            assert [step.num_drafted for step in steps][:2] == [0, 2]
            assert drafter.num_asked == len(steps) - 2, "it is not asked for the first call, nor for the last token"
            sequence.append([7, 8] if turn == 0 else [])


def test_a_text_that_goes_on_with_one_pending_token_is_drafted_at_once(tiny: Model, greedy_text: list[int]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    accept = match(sampler_for(GREEDY), sequence.token_ids)
    for _ in range(2):
        drafter = ScriptedDrafter(greedy_text, iter([(3, 0)] * 9))
        steps = list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=5, stop_ids=()))
    assert [step.num_drafted for step in steps] == [3, 0]


def test_logits_of_a_step_are_those_its_tokens_were_chosen_from(tiny: Model, greedy_text: list[int]) -> None:
    for branches in (False, True):
        sequence = tiny.new_sequence()
        sequence.append(PROMPT)
        accept = match(sampler_for(GREEDY), sequence.token_ids)
        drafter = WildDrafter(greedy_text, 7, branches=branches, share=0.7)
        num_guessed = 0
        for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=NUM_TOKENS, stop_ids=()):
            assert step.logits[: len(step.token_ids)].argmax(axis=1).tolist() == step.token_ids
            num_guessed += step.num_accepted
        assert num_guessed > 3


# What a drafter is told


@given(seed=seeds, branches=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_round_tells_what_was_fed_and_what_came_of_it(
    tiny: Model, greedy_text: list[int], seed: int, branches: bool
) -> None:
    told: list[int] = []
    ended: list[list[int]] = []

    class Listening(WildDrafter):
        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            self.draft = super().propose(history, limit=limit)
            return self.draft

        def observe(self, seen: Round) -> None:
            asked = 0 < len(told) < NUM_TOKENS - 1
            assert seen.draft is self.draft if asked else not len(seen.draft)
            assert seen.pending_id == [*PROMPT, *told][-1]
            assert seen.rows == seen.draft.path(seen.token_ids)
            assert seen.logits.shape == (1 + len(seen.draft), VOCAB_SIZE)
            assert seen.logits[seen.rows].argmax(axis=1).tolist() == seen.token_ids
            assert seen.model_s > 0
            told.extend(seen.token_ids)

        def finish(self, history: SequenceOf[int]) -> None:
            ended.append([*history])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tiny, Listening(greedy_text, seed, branches=branches))
    assert told == greedy_text[len(PROMPT) :]
    assert ended == [greedy_text]


@pytest.mark.parametrize("branches", [False, True])
def test_each_row_is_judged_behind_its_own_path(tiny: Model, greedy_text: list[int], branches: bool) -> None:
    judged: list[list[int]] = []

    def noting(logits: NDArray[np.float32], history: SequenceOf[int]) -> NDArray[np.float32]:
        judged.append([*history])
        return logits

    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    accept = match(Sampler(processors=(noting,), greedy=True), sequence.token_ids)
    drafter = WildDrafter(greedy_text, 5, branches=branches, share=0.6)
    list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=NUM_TOKENS, stop_ids=()))
    assert judged == [greedy_text[:length] for length in range(len(PROMPT), len(greedy_text))]


# Where a text ends


@given(
    at=st.integers(0, NUM_TOKENS - 1),
    plan=st.sampled_from([(0, 0), (16, 0), (2, 2), (0, 4)]),
    seed=seeds,
    wild=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_stop_token_ends_the_text_wherever_it_stands_in_a_draft(
    tiny: Model, greedy_text: list[int], at: int, plan: tuple[int, int], seed: int, wild: bool
) -> None:
    stop_id = greedy_text[len(PROMPT) + at]
    wanted = greedy_text[: greedy_text.index(stop_id, len(PROMPT)) + 1]
    scripted = ScriptedDrafter(greedy_text, iter([plan] * NUM_TOKENS))
    drafter = WildDrafter(greedy_text, seed, branches=True, share=0.9) if wild else scripted
    text, steps = run(tiny, drafter, stop_ids={stop_id, 306})
    assert text == wanted
    assert steps[-1].token_ids[-1] == stop_id


def test_a_wrongly_guessed_stop_token_ends_nothing(tiny: Model, greedy_text: list[int]) -> None:
    stop_id = next(token_id for token_id in range(VOCAB_SIZE) if token_id not in greedy_text)
    for draft in (Draft.chain([stop_id] * 3, source="one"), grown([(0, stop_id), (1, stop_id), (0, 9), (3, stop_id)])):
        assert run(tiny, OneDraft(draft), stop_ids={stop_id})[0] == greedy_text


@given(seed=seeds, min_new_tokens=st.integers(1, 8), branches=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_stop_token_is_not_chosen_before_its_time_and_rejected_guesses_are_no_time(
    tiny: Model, greedy_text: list[int], seed: int, min_new_tokens: int, branches: bool
) -> None:
    stop_ids = set(greedy_text[len(PROMPT) : len(PROMPT) + 3])
    options = SamplingOptions(min_new_tokens=min_new_tokens)
    truth = plain_text(tiny, options, NUM_TOKENS, stop_ids)
    assert len(truth) - len(PROMPT) >= min_new_tokens
    assert not stop_ids & set(truth[len(PROMPT) : len(PROMPT) + min_new_tokens - 1])
    drafter = WildDrafter(truth, seed, branches=branches)
    assert run(tiny, drafter, options=options, stop_ids=stop_ids)[0] == truth


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("plan", [[], [(16, 0)] * 9, [(2, 9)] * 9, [(0, 9)] * 9])
def test_the_limit_of_new_tokens_holds_inside_a_draft_and_rejected_guesses_do_not_count(
    tiny: Model, greedy_text: list[int], max_new_tokens: int, plan: list[tuple[int, int]]
) -> None:
    drafter = ScriptedDrafter(greedy_text, iter(plan))
    text, steps = run(tiny, drafter, max_new_tokens=max_new_tokens)
    assert text == greedy_text[: len(PROMPT) + max_new_tokens]
    made = np.cumsum([len(step.token_ids) for step in steps[:-1]])
    assert drafter.limits == [limit for limit in (max_new_tokens - 1 - made).tolist() if limit]


@given(seed=seeds, num_tokens=st.integers(1, 9), branches=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_text_may_fill_the_context_to_the_last_token(
    tiny: Model, greedy_text: list[int], seed: int, num_tokens: int, branches: bool
) -> None:
    drafter = WildDrafter(greedy_text, seed, branches=branches, share=0.8)
    length = len(PROMPT) + num_tokens
    text, _ = run(tiny, drafter, max_new_tokens=num_tokens, context_length=length)
    assert text == greedy_text[:length]


def test_a_text_that_could_outgrow_the_context_is_refused_before_any_work(tiny: Model, greedy_text: list[int]) -> None:
    drafter = ScriptedDrafter(greedy_text, iter([]))
    with pytest.raises(CacheFull, match="cache holds 11 tokens, 12 needed"):
        run(tiny, drafter, max_new_tokens=8, context_length=len(PROMPT) + 7)
    assert drafter.limits == []


def test_a_text_of_no_tokens_costs_no_call(tiny: Model) -> None:
    text, steps = run(tiny, PlainDrafter(), max_new_tokens=0)
    assert (text, steps) == ([*PROMPT], [])


@pytest.mark.parametrize("branches", [False, True])
def test_a_loop_that_is_left_early_leaves_a_sequence_that_goes_on(
    tiny: Model, greedy_text: list[int], branches: bool
) -> None:
    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    left = 0
    while (made := len(sequence.token_ids) - len(PROMPT)) < NUM_TOKENS:
        steps = decode(
            sequence,
            drafter=WildDrafter(greedy_text, made, branches=branches, share=0.7),
            accept=match(sampler_for(GREEDY), sequence.token_ids),
            max_new_tokens=NUM_TOKENS - made,
            stop_ids=(),
        )
        next(steps)
        steps.close()
        sequence.check()
        assert sequence.token_ids == greedy_text[: len(sequence.token_ids)]
        left += 1
    assert 2 < left < NUM_TOKENS


def test_a_drafter_may_keep_what_was_made_when_the_loop_is_left(tiny: Model) -> None:
    class Keeping(PlainDrafter):
        kept: list[int] | None = None

        def finish(self, history: SequenceOf[int]) -> None:
            self.kept = [*history]

    sequence, drafter = tiny.new_sequence(), Keeping()
    sequence.append(PROMPT)
    accept = match(sampler_for(GREEDY), sequence.token_ids)
    steps = decode(sequence, drafter=drafter, accept=accept, max_new_tokens=NUM_TOKENS, stop_ids=())
    next(steps), next(steps)
    assert drafter.kept is None
    steps.close()
    assert drafter.kept == sequence.token_ids and len(sequence.token_ids) == len(PROMPT) + 2
