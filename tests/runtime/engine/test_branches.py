"""Branches behind one text: each gives what it gives alone, and the text they go on from stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.engine.branches import Branches, TreeBranches, open_branches
from skipstone.runtime.engine.copied_branches import BatchedBranches, ForkedBranches, Logits

PROMPT = [5, 6, 7, 300, 8]


def prompted(model: Model) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    return sequence


def logits_after(model: Model, token_ids: list[int]) -> Logits:
    sequence = model.new_sequence()
    sequence.append(token_ids)
    return sequence.extend(Draft.empty())[0].copy()


KINDS: dict[str, Callable[[Sequence, Logits], Branches]] = {
    "tree": TreeBranches,
    "batch": lambda sequence, logits: BatchedBranches(sequence, logits, most=4, steps=4),
    "forks": ForkedBranches,
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_branch_gives_the_logits_that_its_tokens_give_alone(tiny: Model, kind: str, data: st.DataObject) -> None:
    sequence = prompted(tiny)
    branches = KINDS[kind](sequence, sequence.extend(Draft.empty()).copy())
    np.testing.assert_allclose(branches.logits[0], logits_after(tiny, PROMPT), rtol=0, atol=1e-4)
    texts = [PROMPT]
    for _ in range(4):
        parents = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=4))
        token_ids = data.draw(st.lists(st.integers(3, 300), min_size=len(parents), max_size=len(parents)))
        branches.reorder(parents)
        texts = [[*texts[parent], token_id] for parent, token_id in zip(parents, token_ids, strict=True)]
        rows = branches.step(token_ids).copy()
        for row, text in zip(rows, texts, strict=True):
            np.testing.assert_allclose(row, logits_after(tiny, text), rtol=0, atol=1e-4)


def test_the_text_is_afterwards_as_it_came_and_its_cache_is_used_again(model: Model) -> None:
    sequence = prompted(model)
    for _ in range(2):
        with open_branches(sequence, most=2, steps=3) as branches:
            branches.reorder([0, 0])
            branches.step([20, 30])
        sequence.check()
        assert (sequence.token_ids, sequence.num_waiting) == (PROMPT, 1)
    np.testing.assert_allclose(sequence.extend(Draft.empty())[0], logits_after(model, PROMPT), rtol=0, atol=1e-4)


def test_rows_of_one_cache_come_first_then_a_batch_then_forks(model: Model, tiny: Model) -> None:
    def kind_of(sequence: Sequence, *, most: int = 2, steps: int = 3) -> type:
        sequence.append(PROMPT)
        with open_branches(sequence, most=most, steps=steps) as branches:
            return type(branches)

    has_windows = any(layer.window for layer in model.manifest.cache)
    assert kind_of(model.new_sequence()) is (BatchedBranches if has_windows else TreeBranches)
    assert kind_of(tiny.new_sequence(context_length=11)) is TreeBranches
    assert kind_of(tiny.new_sequence(context_length=10)) is BatchedBranches
    assert kind_of(tiny.new_sequence(exact=True)) is ForkedBranches


def test_branches_that_do_not_fit_are_refused_before_any_work(tiny: Model) -> None:
    sequence = tiny.new_sequence(context_length=7)
    sequence.append(PROMPT)
    with pytest.raises(CacheFull), open_branches(sequence, most=2, steps=3):
        pass
    assert sequence.num_cached == 0
    with open_branches(sequence, most=3, steps=2) as branches:  # too many rows for one cache
        branches.reorder([0, 0, 0])
        branches.step([20, 30, 40])
        rows = branches.step([21, 31, 41])
    np.testing.assert_allclose(rows[2], logits_after(tiny, [*PROMPT, 40, 41]), rtol=0, atol=1e-4)
