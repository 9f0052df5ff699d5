"""A sequence: whatever was appended, guessed, taken back and copied, its logits are those of the text it holds."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from decoding import grown, path_to, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.engine import Draft, Model, Sequence, Workspace
from skipstone.runtime.engine.sessions import Sessions
from skipstone.runtime.engine.workspace import Spares

CAPACITY = 24
token_lists = st.lists(st.integers(0, 306), max_size=7)


def chain(token_ids: SequenceOf[int]) -> Draft:
    return Draft.chain(token_ids, source="test")


def fresh_logits(model: Model, token_ids: SequenceOf[int], num_rows: int = 1) -> NDArray[np.float32]:
    """Return logits [num_rows, V] after the last tokens of a text that is fed in one call to a new sequence."""
    sequence = model.new_sequence()
    given = len(token_ids) - num_rows + 1
    sequence.append(token_ids[:given])
    return sequence.extend(chain(token_ids[given:])).copy()


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def random_ids(length: int) -> list[int]:
    ids: list[int] = np.random.default_rng(length).integers(0, 307, size=length).tolist()
    return ids


def assert_logits_of_paths(model: Model, text: list[int], draft: Draft, found: NDArray[np.float32]) -> None:
    """Check each row of `found` [1 + N, V] against the path of its guess, fed as plain text."""
    if draft.is_chain:
        assert_close(found, fresh_logits(model, [*text, *draft.token_ids], 1 + len(draft)))
        return
    assert len(found) == 1 + len(draft)
    for row in range(1 + len(draft)):
        assert_close(found[row], fresh_logits(model, text + path_to(draft, row))[0])


class Machine(RuleBasedStateMachine):
    """Does whatever it likes to some sequences, beside plain lists of the tokens that each should hold."""

    def __init__(self, model: Model, *, exact: bool) -> None:
        super().__init__()
        self.model = model
        self.sequences = [model.new_sequence(context_length=CAPACITY, exact=exact)]
        self.texts: list[list[int]] = [[]]
        self.drafts: list[Draft | None] = [None]
        self.at = 0

    @property
    def sequence(self) -> Sequence:
        return self.sequences[self.at]

    @property
    def text(self) -> list[int]:
        return self.texts[self.at]

    @rule(which=st.integers(0, 3))
    def turn_to(self, which: int) -> None:
        self.at = which % len(self.sequences)

    @rule(token_ids=token_lists)
    def append(self, token_ids: list[int]) -> None:
        if len(self.text) + len(token_ids) > CAPACITY:
            with pytest.raises(CacheFull):
                self.sequence.append(token_ids)
            return
        self.sequence.append(token_ids)
        self.text.extend(token_ids)
        self.drafts[self.at] = None

    @rule(draft=trees(max_size=7) | token_lists.map(lambda guesses: chain(guesses)))
    def extend(self, draft: Draft) -> None:
        before = self.sequence.num_cached
        no_tree = not draft.is_chain and (not self.sequence.takes_trees or len(self.text) == 1)
        is_full = bool(self.text) and len(self.text) + len(draft) > CAPACITY
        if not self.text or no_tree or is_full:
            with pytest.raises(CacheFull if is_full else ConfigError):
                self.sequence.extend(draft)
            assert self.sequence.num_cached == before
            return
        found = self.sequence.extend(draft)
        assert_logits_of_paths(self.model, self.text, draft, found)
        self.drafts[self.at] = draft

    @precondition(lambda self: self.drafts[self.at] is not None)
    @rule(row=st.integers(0, 7), other=st.none() | st.integers(0, 306))
    def commit(self, row: int, other: int | None) -> None:
        draft = self.drafts[self.at]
        assert draft is not None
        accepted = path_to(draft, row % (1 + len(draft))) + ([] if other is None else [other])
        if not accepted or len(self.text) + len(accepted) > CAPACITY:
            with pytest.raises(CacheFull if accepted else ConfigError):
                self.sequence.commit(accepted)
            return
        assert self.sequence.commit(accepted) == draft.path(accepted)
        self.text.extend(accepted)
        self.drafts[self.at] = None

    @rule(back=st.integers(0, CAPACITY))
    def rollback(self, back: int) -> None:
        length = max(0, len(self.text) - back)
        self.sequence.rollback(length)
        del self.text[length:]
        self.drafts[self.at] = None

    @precondition(lambda self: len(self.sequences) < 4)
    @rule()
    def fork(self) -> None:
        self.sequences.append(self.sequence.fork())
        self.texts.append(list(self.text))
        self.drafts.append(self.drafts[self.at])
        self.at = len(self.sequences) - 1

    @invariant()
    def every_sequence_holds_its_text(self) -> None:
        for sequence, text in zip(self.sequences, self.texts, strict=True):
            sequence.check()
            assert sequence.token_ids == text
            assert sequence.room == CAPACITY - len(text)


@pytest.mark.parametrize("exact", [False, True])
def test_any_order_of_operations_keeps_the_logits_of_the_text(model: Model, exact: bool) -> None:
    run_state_machine_as_test(
        lambda: Machine(model, exact=exact), settings=settings(max_examples=20, stateful_step_count=15, deadline=None)
    )


# Drafts


@given(prompt=st.lists(st.integers(0, 306), min_size=1, max_size=9), guesses=token_lists)
@settings(max_examples=20, deadline=None)
def test_extend_then_rollback_equals_nothing(tiny: Model, prompt: list[int], guesses: list[int]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(prompt)
    sequence.extend(Draft.empty())
    before = sequence.extend(Draft.empty()).copy()  # again, as now it is one row behind a cache, like the last call
    sequence.rollback(len(prompt))
    state = (list(sequence.token_ids), sequence.num_cached)
    sequence.extend(chain(guesses))
    sequence.rollback(len(prompt))
    assert (sequence.token_ids, sequence.num_cached) == state
    np.testing.assert_array_equal(sequence.extend(Draft.empty()), before)


def test_extend_may_be_asked_again_with_another_draft(model: Model) -> None:
    sequence = model.new_sequence()
    sequence.append([5, 6, 7])
    for guesses in ([8, 9], [], [10], [8, 9, 11, 12]):
        found = sequence.extend(chain(guesses))
        assert_close(found, fresh_logits(model, [5, 6, 7, *guesses], 1 + len(guesses)))
    sequence.commit([8, 9, 30])
    assert_close(sequence.extend(Draft.empty()), fresh_logits(model, [5, 6, 7, 8, 9, 30]))


def test_only_what_is_not_cached_is_fed(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(random_ids(10))
    sequence.extend(chain([1, 2, 3]))
    sequence.commit([1, 2, 9])
    sequence.extend(chain([4]))
    sequence.commit([5])
    sequence.append([6, 7])
    sequence.extend(Draft.empty())
    sequence.rollback(8)
    sequence.append([8])
    sequence.extend(Draft.empty())
    assert fed == [(1, 13), (1, 2), (1, 3), (1, 2)]


@given(prompt=st.lists(st.integers(0, 306), min_size=2, max_size=9), draft=trees())
@settings(max_examples=20, deadline=None)
def test_every_row_of_a_tree_has_the_logits_of_its_path(
    tiny: Model, tiny_stages: Model, prompt: list[int], draft: Draft
) -> None:
    for model in (tiny, tiny_stages):
        sequence = model.new_sequence()
        sequence.append(prompt)
        for _ in range(2):  # first with the whole prompt waiting, then with the last token only
            assert_logits_of_paths(model, prompt, draft, sequence.extend(draft))


@given(waiting=st.lists(st.integers(0, 306), min_size=2, max_size=9), draft=trees())
@settings(max_examples=20, deadline=None)
def test_a_tree_may_be_fed_while_several_tokens_wait(tiny: Model, waiting: list[int], draft: Draft) -> None:
    sequence = tiny.new_sequence()
    sequence.append([5, 6, 7])
    sequence.extend(grown([(0, 8), (0, 9), (1, 8)]))
    sequence.commit([9, 30])
    sequence.append(waiting)
    assert sequence.num_waiting == len(waiting) + 1
    text = [5, 6, 7, 9, 30, *waiting]
    assert_logits_of_paths(tiny, text, draft, sequence.extend(draft))
    path = path_to(draft, len(draft))
    sequence.commit([*path, 40])
    assert_close(sequence.extend(Draft.empty()), fresh_logits(tiny, [*text, *path, 40]))


def test_a_tree_right_behind_a_single_token_is_refused(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = tiny.new_sequence()
    sequence.append([5])
    with pytest.raises(ConfigError, match="a tree needs a token before the pending one"):
        sequence.extend(grown([(0, 8), (0, 9)]))
    assert (fed, sequence.num_cached) == ([], 0)
    assert_close(sequence.extend(chain([8, 9])), fresh_logits(tiny, [5, 8, 9], 3))


def test_extend_then_rollback_forgets_a_tree(tiny: Model) -> None:
    sequence = tiny.new_sequence()
    sequence.append([5, 6, 7])
    sequence.extend(grown([(0, 8), (0, 9), (1, 10), (1, 11)]))
    sequence.rollback(3)
    assert_close(sequence.extend(chain([20])), fresh_logits(tiny, [5, 6, 7, 20], 2))


def test_no_more_than_the_draft_is_fed_in_the_call_of_a_tree(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(random_ids(10))
    sequence.extend(grown([(0, 8), (0, 9), (1, 8)]))
    assert fed == [(1, 9), (1, 4)]


def test_a_tree_where_only_chains_are_taken_is_refused_before_any_work(
    model: Model, fed: list[tuple[int, ...]]
) -> None:
    sequence = model.new_sequence(exact=True)
    fed.clear()  # how the device rounds is measured once
    sequence.append([5, 6])
    assert not sequence.takes_trees
    with pytest.raises(ConfigError, match="this sequence takes chains only"):
        sequence.extend(grown([(0, 8), (0, 9)]))
    assert (fed, sequence.num_cached) == ([], 0)


@pytest.mark.parametrize(
    ("draft", "accepted"),
    [
        ([], []),
        ([4, 5], []),
        ([], [1, 2]),
        ([4, 5], [4, 6, 7]),
        ([4, 5], [6, 5]),
        ([4, 5], [4, 5, 6, 7]),
        ([4, 5], [4, 307]),
        ([4, 5], [-1]),
    ],
)
def test_a_commit_that_the_draft_does_not_explain_is_refused_and_changes_nothing(
    tiny: Model, draft: list[int], accepted: list[int]
) -> None:
    sequence = tiny.new_sequence()
    sequence.append([1, 2, 3])
    sequence.extend(chain(draft))
    with pytest.raises(ConfigError):
        sequence.commit(accepted)
    assert sequence.token_ids == [1, 2, 3]
    sequence.commit([*draft, 9])
    assert_close(sequence.extend(Draft.empty()), fresh_logits(tiny, [1, 2, 3, *draft, 9]))


def test_a_commit_without_an_extend_is_refused(tiny: Model) -> None:
    sequence = tiny.new_sequence()
    sequence.append([1])
    for prepare in (lambda: None, lambda: sequence.commit([2]), lambda: sequence.append([3])):
        prepare()
        with pytest.raises(ConfigError, match="needs an extend before it"):
            sequence.commit([4])
        sequence.extend(Draft.empty())


# Limits


def test_a_text_that_does_not_fit_is_refused_before_any_work(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    sequence = tiny.new_sequence(context_length=5)
    with pytest.raises(CacheFull, match="cache holds 5 tokens, 6 needed"):
        sequence.append([1, 2, 3, 4, 5, 6])
    assert sequence.token_ids == []
    sequence.append([1, 2, 3])
    with pytest.raises(CacheFull, match="cache holds 5 tokens, 6 needed"):
        sequence.extend(chain([4, 5, 6]))
    assert (fed, sequence.token_ids, sequence.num_cached) == ([], [1, 2, 3], 0)
    assert_close(sequence.extend(chain([4, 5])), fresh_logits(tiny, [1, 2, 3, 4, 5], 3))
    with pytest.raises(CacheFull):
        sequence.commit([4, 5, 6])
    sequence.commit([4, 5])
    assert sequence.room == 0
    assert_close(sequence.extend(Draft.empty()), fresh_logits(tiny, [1, 2, 3, 4, 5]))


@pytest.mark.parametrize("token_id", [-1, 307, 10**6])
def test_a_token_outside_the_vocabulary_is_refused_before_any_work(
    tiny: Model, fed: list[tuple[int, ...]], token_id: int
) -> None:
    sequence = tiny.new_sequence()
    sequence.append([1, 2])
    with pytest.raises(ConfigError, match=f"token id {token_id} is outside the vocabulary of 307"):
        sequence.append([3, token_id])
    with pytest.raises(ConfigError, match=f"token id {token_id} is outside the vocabulary of 307"):
        sequence.extend(chain([3, token_id]))
    assert (fed, sequence.token_ids, sequence.num_cached) == ([], [1, 2], 0)


def test_an_empty_text_cannot_be_extended(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="the text is empty"):
        tiny.new_sequence().extend(Draft.empty())


@pytest.mark.parametrize("length", [-1, 4])
def test_going_back_to_a_length_that_never_was_is_refused(tiny: Model, length: int) -> None:
    sequence = tiny.new_sequence()
    sequence.append([1, 2, 3])
    with pytest.raises(ConfigError, match=f"cannot go back to {length} tokens, the text has 3"):
        sequence.rollback(length)
    assert sequence.token_ids == [1, 2, 3]


@pytest.mark.parametrize("context_length", [0, -5, 257])
def test_a_context_that_the_model_does_not_have_is_refused(tiny: Model, context_length: int) -> None:
    with pytest.raises(ConfigError, match=f"between 1 and the model's 256 tokens, got {context_length}"):
        tiny.new_sequence(context_length=context_length)


def test_the_whole_context_can_be_used(model: Model) -> None:
    token_ids = random_ids(256)
    assert_close(fresh_logits(model, token_ids), fresh_logits(model, token_ids, 256)[-1:])


# Long prompts


@pytest.mark.parametrize("length", [1, 7, 8, 50])
@pytest.mark.parametrize("num_guesses", [0, 6, 7, 20])
def test_a_prompt_in_chunks_gives_the_logits_of_one_call(
    model: Model, fed: list[tuple[int, ...]], length: int, num_guesses: int
) -> None:
    token_ids = random_ids(length + num_guesses)
    sequence = Sequence.open(model.spares, None, prefill_chunk=7)
    sequence.append(token_ids[:length])
    found = sequence.extend(chain(token_ids[length:]))
    sizes = [size for _, size in fed]
    assert sum(sizes) == length + num_guesses
    assert max(sizes) <= max(7, 1 + num_guesses)
    assert_close(found, fresh_logits(model, token_ids, 1 + num_guesses))


def test_more_shapes_of_calls_than_are_kept_bound_stay_right(tiny: Model) -> None:
    sequence = Model(tiny.bundle, tiny.device, bound_calls=4).new_sequence()
    for size in (*range(1, 8), 1, 2, 3):
        sequence.append(random_ids(size))
        found = sequence.extend(Draft.empty()).copy()
    assert_close(found, fresh_logits(tiny, sequence.token_ids))


# Several sequences


def test_sequences_of_one_model_do_not_disturb_each_other(model: Model) -> None:
    texts = [random_ids(length) for length in (20, 21, 22)]
    sequences = [model.new_sequence(context_length=30) for _ in texts]
    found: list[Any] = []
    for position in range(20):
        found = []
        for sequence, text in zip(sequences, texts, strict=True):
            sequence.append([text[position]])
            found.append(sequence.extend(Draft.empty()).copy())
    for logits, text in zip(found, texts, strict=True):
        assert_close(logits, fresh_logits(model, text[:20]))


def test_a_fork_between_extend_and_commit_may_take_another_way(model: Model) -> None:
    sequence = model.new_sequence()
    sequence.append([5, 6, 7])
    sequence.extend(chain([8, 9]))
    twin = sequence.fork()
    sequence.commit([8, 9, 10])
    twin.commit([8, 20])
    for each in (sequence, twin):
        each.check()
        assert_close(each.extend(Draft.empty()), fresh_logits(model, each.token_ids))


def test_a_text_collected_while_another_takes_its_workspace_does_not_hang() -> None:
    """The garbage collector may end a text at any moment, in the middle of `take` too."""
    spares = Spares(cast(Sessions, SimpleNamespace(manifest=SimpleNamespace(context_length=8))))

    class Cache:
        @property
        def capacity(self) -> int:
            spares.give(cast(Workspace, SimpleNamespace(cache=SimpleNamespace(capacity=9))))
            return 8

    spares.give(cast(Workspace, SimpleNamespace(cache=Cache())))
    found: list[Workspace | None] = []
    thread = Thread(target=lambda: found.append(spares.take(8)), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert len(found) == 1 and found[0] is not None
