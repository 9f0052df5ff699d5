"""The cache of a text that was drafted in any way is that of the same text fed at once."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, PROMPT, VOCAB_SIZE, WildDrafter, grown, path_to, plain_text, sampler_for, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.devices import open_device
from skipstone.runtime.bundle import LayerCache
from skipstone.runtime.decoding import Drafter, PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, KVCache, Model, TreeMask

NUM_TOKENS = 16
MAY_BRANCH = {"one stage": True, "four stages": True, "windows of 5": False, "int8 cache": True}


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
def truth(model: Model) -> list[int]:
    return plain_text(model, GREEDY, NUM_TOKENS)


class Text:
    """A sequence whose cache can be looked at."""

    def __init__(self, model: Model, token_ids: SequenceOf[int], *, context_length: int | None = None) -> None:
        self.model, self.sequence = model, model.new_sequence(context_length=context_length)
        self.sequence.append(token_ids)

    def cached(self, num_rows: int) -> list[NDArray[np.float32]]:
        """Return keys and values [1, K, num_rows, D] of all layers."""
        return [buffer.read()[:, :, :num_rows] for buffer in self.sequence.cache]

    def check(self) -> None:
        """Compare all that is cached, and the logits that come next, with those of the text fed at once."""
        self.sequence.check()
        num_cached = self.sequence.num_cached
        fresh = Text(self.model, self.sequence.token_ids)
        wanted = fresh.sequence.extend(Draft.empty())
        for mine, theirs in zip(self.cached(num_cached), fresh.cached(num_cached), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)
        np.testing.assert_allclose(self.sequence.extend(Draft.empty()), wanted, rtol=0, atol=1e-4)

    def decode(self, drafter: Drafter, *, max_new_tokens: int, stop_ids: SequenceOf[int] = ()) -> None:
        """Decode, and check after every step."""
        accept = match(sampler_for(GREEDY), self.sequence.token_ids)
        for _ in decode(
            self.sequence, drafter=drafter, accept=accept, max_new_tokens=max_new_tokens, stop_ids=stop_ids
        ):
            self.check()


# The loop


@pytest.mark.filterwarnings("error")
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.5, 0.9]), branches=st.booleans())
@settings(max_examples=6, deadline=None)
def test_after_every_round_the_cache_is_that_of_the_text_fed_at_once(
    model: Model, kind: str, truth: list[int], seed: int, share: float, branches: bool
) -> None:
    text = Text(model, PROMPT)
    drafter = WildDrafter(truth, seed, branches=branches and MAY_BRANCH[kind], share=share)
    text.decode(drafter, max_new_tokens=NUM_TOKENS)
    assert text.sequence.token_ids == truth


def test_a_stop_token_in_the_middle_of_an_accepted_path_leaves_the_cache_of_the_text(
    tiny: Model, greedy_text: list[int]
) -> None:
    wrong = [token_id for token_id in range(3, 99) if token_id not in greedy_text]
    for at in range(1, 5):
        text = Text(tiny, PROMPT)
        text.sequence.extend(Draft.empty())
        text.sequence.commit(greedy_text[len(PROMPT) : len(PROMPT) + 1])
        coming = greedy_text[len(PROMPT) + 1 :]
        # Each right guess has a wrong sibling before it, so that every row has to move.
        guesses = [(2 * depth, guess) for depth, right in enumerate(coming[:5]) for guess in (wrong[depth], right)]
        draft = grown(guesses)
        assert draft.path(coming[:5]) == [0, 2, 4, 6, 8, 10]
        text.sequence.extend(draft)
        assert text.sequence.commit(coming[:at]) == [2 * row for row in range(at + 1)]
        text.check()
        text.sequence.append([7, 8, 9])
        text.check()


@pytest.fixture(scope="session")
def greedy_text(tiny: Model) -> list[int]:
    return plain_text(tiny, GREEDY, NUM_TOKENS)


@pytest.mark.filterwarnings("error")
@given(seed=st.integers(0, 2**32), num_tokens=st.integers(1, 9), at_stop=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_text_that_ends_inside_a_draft_leaves_the_cache_of_the_text(
    tiny: Model, greedy_text: list[int], seed: int, num_tokens: int, at_stop: bool
) -> None:
    text = Text(tiny, PROMPT)
    stop_id = greedy_text[len(PROMPT) + num_tokens - 1]
    drafter = WildDrafter(greedy_text, seed, branches=True, share=0.9)
    text.decode(drafter, max_new_tokens=NUM_TOKENS if at_stop else num_tokens, stop_ids=[stop_id] if at_stop else [])
    end = greedy_text.index(stop_id, len(PROMPT)) + 1 if at_stop else len(PROMPT) + num_tokens
    assert text.sequence.token_ids == greedy_text[:end]


@pytest.mark.filterwarnings("error")
@given(seed=st.integers(0, 2**32), num_tokens=st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_a_text_that_ends_with_the_context_leaves_the_cache_of_the_text(
    tiny: Model, greedy_text: list[int], seed: int, num_tokens: int
) -> None:
    text = Text(tiny, PROMPT, context_length=len(PROMPT) + num_tokens)
    text.decode(WildDrafter(greedy_text, seed, branches=True, share=0.7), max_new_tokens=num_tokens)
    assert text.sequence.token_ids == greedy_text[: len(PROMPT) + num_tokens]
    assert text.sequence.room == 0


@pytest.mark.filterwarnings("error")
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_a_turn_of_a_chat_after_drafted_text_goes_on_as_if_all_had_been_fed(tiny: Model, seed: int) -> None:
    text = Text(tiny, PROMPT)
    for turn in range(3):
        plain = Text(tiny, text.sequence.token_ids)
        plain.decode(PlainDrafter(), max_new_tokens=6)
        text.decode(WildDrafter(plain.sequence.token_ids, seed, branches=True, share=0.7), max_new_tokens=6)
        assert text.sequence.token_ids == plain.sequence.token_ids
        text.sequence.append([200 + turn, 7, 8])
        text.check()


# Committed by hand


@given(prompt=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=2, max_size=9), draft=trees(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_path_of_a_tree_leaves_the_cache_of_its_text(
    tiny: Model, prompt: list[int], draft: Draft, data: st.DataObject
) -> None:
    text = Text(tiny, prompt)
    for _ in range(3):
        text.sequence.extend(draft)
        row = data.draw(st.integers(0, len(draft)))
        kept = text.sequence.commit([*path_to(draft, row), data.draw(st.integers(0, VOCAB_SIZE - 1))])
        assert kept[: 1 + draft.depths()[row]] == draft.path(path_to(draft, row))
        text.check()


@given(draft=trees(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_fork_of_a_tree_may_take_another_branch(tiny: Model, draft: Draft, data: st.DataObject) -> None:
    text = Text(tiny, [5, 6, 7])
    text.sequence.extend(draft)
    twin = text.sequence.fork()
    for sequence in (text.sequence, twin):
        path = path_to(draft, data.draw(st.integers(0, len(draft))))
        sequence.commit([*path, 30])
        sequence.check()
        fresh = Text(tiny, [5, 6, 7, *path, 30]).sequence
        assert fresh.token_ids == sequence.token_ids
        np.testing.assert_allclose(sequence.extend(Draft.empty()), fresh.extend(Draft.empty()), rtol=0, atol=1e-4)
    text.check()


# The parts


@given(rows=st.sets(st.integers(0, 9)).map(sorted), first=st.integers(0, 9))
@settings(deadline=None)
def test_rows_move_behind_each_other_and_no_other_row_changes(rows: list[int], first: int) -> None:
    start = min([first, *rows])  # rows are moved down, or stay
    layer = LayerCache(num_heads=2, head_size=3, dtype="float32")
    cache = KVCache.allocate([layer, layer], open_device("cpu"), capacity=10)
    arrays = [buffer.read() for buffer in cache]
    random = np.random.default_rng(0)
    for array in arrays:
        array[:] = random.normal(size=array.shape)
    before = [array.copy() for array in arrays]
    cache.move(rows, start=start)
    for array, old in zip(arrays, before, strict=True):
        wanted = old.copy()
        for to, row in enumerate(rows, start=start):
            wanted[:, :, to] = old[:, :, row]
        np.testing.assert_array_equal(array, wanted)


@given(draft=trees(), num_cached=st.integers(0, 5))
def test_a_row_of_a_tree_sees_the_text_its_ancestors_and_itself(draft: Draft, num_cached: int) -> None:
    num_rows = 1 + len(draft)
    total = num_cached + num_rows
    bias = TreeMask.of(draft).bias(total)
    assert bias.shape == (num_rows, total)
    for row in range(num_rows):
        ancestors = draft.path(path_to(draft, row))
        seen = {column for column in range(total) if column < num_cached or column - num_cached in ancestors}
        assert {column for column in range(total) if bias[row, column] == 0} == seen
        assert all(np.exp(bias[row, column]) == 0 for column in range(total) if column not in seen)
