"""Drafts: chains and trees of guesses, and which rows a text leads through."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest
from decoding import grown, path_to, trees
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Draft

# Few tokens, so that the same one stands in several places of a tree and texts often lead through it.
few = st.integers(0, 2)
few_trees = trees(token_ids=few)


def test_a_chain_is_a_tree_of_one_branch() -> None:
    chain = Draft.chain([5, 6, 6], source="test", levels=[1, 2, 3])
    assert chain == Draft((5, 6, 6), "test", (0, 1, 2), (1, 2, 3))
    assert chain.is_chain and len(chain) == 3
    assert chain.depths() == [0, 1, 2, 3]


def test_an_empty_draft_guesses_nothing() -> None:
    empty = Draft.empty()
    assert empty.is_chain and len(empty) == 0
    assert empty.depths() == empty.path([3, 4]) == [0]
    assert empty.child(0, 3) is None


@given(few_trees)
def test_a_draft_is_a_chain_when_every_row_has_one_child_at_most(draft: Draft) -> None:
    assert draft.is_chain == (len(set(draft.parents)) == len(draft) and draft.depths() == [*range(len(draft) + 1)])


@given(few_trees)
def test_the_depth_of_a_row_is_the_length_of_its_path(draft: Draft) -> None:
    assert draft.depths() == [len(path_to(draft, row)) for row in range(len(draft) + 1)]


@given(few_trees, st.integers(0, 8), few)
def test_the_child_of_a_row_is_the_guess_behind_it(draft: Draft, row: int, token_id: int) -> None:
    row %= len(draft) + 1
    wanted = [*path_to(draft, row), token_id]
    rows = [child for child in range(1, len(draft) + 1) if path_to(draft, child) == wanted]
    assert [found for found in [draft.child(row, token_id)] if found is not None] == rows


@given(few_trees, st.lists(few, max_size=6))
def test_a_text_leads_through_the_rows_whose_paths_it_starts_with(draft: Draft, text: list[int]) -> None:
    wanted = [row for row in range(len(draft) + 1) if path_to(draft, row) == text[: len(path_to(draft, row))]]
    assert draft.path(text) == sorted(wanted, key=lambda row: len(path_to(draft, row)))


@given(few_trees)
def test_the_path_of_a_row_rises(draft: Draft) -> None:
    for row in range(len(draft) + 1):
        rows = draft.path(path_to(draft, row))
        assert rows[0] == 0 and rows[-1] == row
        assert rows == sorted(set(rows)), "rows of the cache are moved in this order"


# Parts


def with_extras(draft: Draft) -> Draft:
    """Return the draft with a level for each guess and a law for each row, all different."""
    size = len(draft)
    laws = tuple(np.array([float(row)]) for row in range(size + 1))
    return Draft(draft.token_ids, draft.source, draft.parents, tuple(range(10, 10 + size)), laws)


def closed_under_parents(draft: Draft, rows: SequenceOf[int]) -> list[int]:
    kept: set[int] = set()
    for row in rows:
        while row:
            kept.add(row)
            row = draft.parents[row - 1]
    return sorted(kept)


@given(few_trees, st.lists(st.integers(0, 8)))
def test_a_part_of_a_draft_keeps_the_paths_levels_and_laws_of_its_rows(draft: Draft, wanted: list[int]) -> None:
    draft = with_extras(draft)
    rows = closed_under_parents(draft, [row % (len(draft) + 1) for row in wanted])
    part = draft.keep(rows)
    assert len(part) == len(rows) and part.source == draft.source
    for row, old in enumerate([0, *rows]):
        assert path_to(part, row) == path_to(draft, old)
        assert part.laws[row] is draft.laws[old]
    assert part.levels == tuple(draft.levels[old - 1] for old in rows)


@given(few_trees, st.integers(0, 8))
def test_a_part_without_levels_and_laws_has_none(draft: Draft, size: int) -> None:
    rows = closed_under_parents(draft, range(min(size, len(draft)) + 1))
    part = draft.keep(rows)
    assert (part.levels, part.laws) == ((), ())
    assert part.token_ids == draft.token_ids[: len(rows)]


def test_nothing_can_be_kept_of_a_draft() -> None:
    assert len(with_extras(Draft((5, 6, 7), "test", (0, 0, 1))).keep([])) == 0


# What is refused


@pytest.mark.parametrize(
    ("token_ids", "parents", "levels", "message"),
    [
        ((5, 6), (0,), (), "a draft of 2 tokens has 1 parents and 0 levels"),
        ((5,), (0, 1), (), "a draft of 1 tokens has 2 parents and 0 levels"),
        ((5, 6), (0, 1), (3,), "a draft of 2 tokens has 2 parents and 1 levels"),
        ((5, 6), (0, 2), (), "the parent of row 2 of a draft is 2; an earlier row is wanted"),
        ((5, 6), (1, 0), (), "the parent of row 1 of a draft is 1; an earlier row is wanted"),
        ((5, 6), (0, -1), (), "the parent of row 2 of a draft is -1; an earlier row is wanted"),
        ((5, 6), (0, 0.0), (), "the parent of row 2 of a draft is 0.0; an earlier row is wanted"),
        ((5, 5), (0, 0), (), "two guesses of a draft follow the same token and are equal; one is enough"),
        ((5, 6, 7, 6), (0, 1, 1, 1), (), "two guesses of a draft follow the same token and are equal; one is enough"),
    ],
)
def test_a_draft_that_is_no_tree_is_refused(
    token_ids: tuple[int, ...], parents: tuple[int, ...], levels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Draft(token_ids, "test", parents, levels)


def test_numbers_of_numpy_make_the_same_draft() -> None:
    rows = np.array([0, 0, 1])
    draft = Draft(tuple(np.array([5, 6, 5])), "test", tuple(rows))
    assert draft == Draft((5, 6, 5), "test", (0, 0, 1)) == grown([(0, 5), (0, 6), (1, 5)], source="test")
    assert draft.path([5, 5]) == [0, 1, 3]
