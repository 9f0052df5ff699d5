"""The suffix index: what a slow search over the whole list finds, in a bounded ring with colliding hashes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.text import LONGEST_MATCH, Continuation, SuffixIndex, TextIndex, overlapping
from skipstone.runtime.text.suffix_index import BOUNDARY

SMALLEST = 64
# So many places are looked at that no chain of colliding runs hides one.
ALL_PLACES = SMALLEST
# No two runs of three tokens and the boundary share a hash.
ROOMY = 8192


def slow_continuation(text: Sequence[int], context: list[int], *, max_places: int = ALL_PLACES) -> Continuation | None:
    """Search all of `text`, of which nothing has fallen out; `position` is an index into it."""
    for order in (4, 2, 1):
        run = context[-order:]
        places = [end for end in range(len(text) - 1, order - 1, -1) if [*text[end - order : end]] == run]
        if places:
            return vote(text, places[:max_places], order, context)
    return None


def vote(text: Sequence[int], places: list[int], order: int, context: list[int]) -> Continuation | None:
    followers = [text[place] for place in places]
    most = max(followers.count(token_id) for token_id in followers)
    best = next(token_id for token_id in followers if followers.count(token_id) == most)
    if best == BOUNDARY:
        return None
    position = places[followers.index(best)]
    lengths = {4: (4, 8, 16, 32), 2: (2, 3), 1: (1,)}[order]
    match = max(
        length
        for length in lengths
        if length <= len(context) and length <= position and [*text[position - length : position]] == context[-length:]
    )
    return Continuation(best, match, followers.count(best), len(places), position)


def slow_following(text: Sequence[int], position: int, limit: int) -> list[int]:
    found = [*text[position : position + limit]]
    return found[: found.index(BOUNDARY)] if BOUNDARY in found else found


def texts(*, max_size: int, num_tokens: int = 3, boundaries: bool = True) -> st.SearchStrategy[list[int]]:
    """Few tokens, so that runs come back, and passages that are repeated; some boundaries between them."""
    token = st.integers(0, num_tokens - 1)
    passages = st.tuples(st.lists(token, min_size=1, max_size=12), st.integers(1, 6)).map(lambda p: p[0] * p[1])
    ends = [[BOUNDARY]] if boundaries else []
    parts = st.lists(st.one_of(passages, *map(st.just, ends)), max_size=8)
    return parts.map(lambda found: [token_id for part in found for token_id in part][:max_size])


def filled(text: Sequence[int], *, capacity: int = SMALLEST) -> SuffixIndex:
    index = SuffixIndex(capacity)
    index.add(text)
    return index


def shifted(found: Continuation | None, by: int) -> Continuation | None:
    return None if found is None else found._replace(position=found.position + by)


contexts = st.lists(st.integers(0, 2), min_size=4, max_size=LONGEST_MATCH)


@given(text=texts(max_size=SMALLEST), context=contexts)
@settings(deadline=None)
def test_a_continuation_is_that_of_a_search_through_the_whole_list(text: list[int], context: list[int]) -> None:
    assert shifted(filled(text).continuation(context, max_places=ALL_PLACES), -SMALLEST) == slow_continuation(
        text, context
    )


@given(text=texts(max_size=SMALLEST, boundaries=False))
@settings(deadline=None)
def test_a_text_finds_its_own_end_where_it_stood_before(text: list[int]) -> None:
    context = text[-LONGEST_MATCH:]
    assume(len(context) >= 4)
    found = filled(text).continuation(context, max_places=ALL_PLACES)
    assert shifted(found, -SMALLEST) == slow_continuation(text, context)


@given(text=texts(max_size=400), context=contexts)
@settings(deadline=None)
def test_what_has_fallen_out_of_the_ring_is_not_found_and_the_rest_is(text: list[int], context: list[int]) -> None:
    forgotten = max(0, len(text) - SMALLEST)
    found = filled(text).continuation(context, max_places=ALL_PLACES)
    assert shifted(found, -SMALLEST - forgotten) == slow_continuation(text[forgotten:], context)


@given(text=texts(max_size=200), context=contexts, cuts=st.lists(st.integers(0, 200), max_size=4))
@settings(deadline=None)
def test_it_does_not_matter_in_which_pieces_tokens_are_added(
    text: list[int], context: list[int], cuts: list[int]
) -> None:
    index = SuffixIndex(SMALLEST)
    edges = [0, *sorted(cuts), len(text)]
    for start, end in pairwise(edges):
        index.add(text[start:end])
    whole = filled(text)
    assert index.continuation(context, max_places=ALL_PLACES) == whole.continuation(context, max_places=ALL_PLACES)
    assert index.following(index.end - 9, 9) == whole.following(whole.end - 9, 9)


@given(
    text=texts(max_size=300, num_tokens=40),
    context=st.lists(st.integers(0, 39), min_size=1, max_size=LONGEST_MATCH),
    max_places=st.sampled_from([1, 2, 4]),
)
@settings(deadline=None)
def test_colliding_hashes_hide_places_but_never_make_false_ones(
    text: list[int], context: list[int], max_places: int
) -> None:
    index = filled(text)
    found = index.continuation(context, max_places=max_places)
    if found is not None:
        position = found.position - SMALLEST
        assert max(0, len(text) - SMALLEST) <= position - found.match
        assert text[position] == found.token_id != BOUNDARY
        assert text[position - found.match : position] == context[-found.match :]
        assert 1 <= found.votes <= found.places <= max_places


def test_some_hashes_do_collide_in_the_smallest_index() -> None:
    # The tests above would be worth little if they did not.
    runs = [(first, second) for first in range(40) for second in range(40)]
    assert len({hash(run) & (2 * SMALLEST - 1) for run in runs}) < len(runs)


@pytest.mark.parametrize("max_places", [1, 2, 4])
@given(text=texts(max_size=250), context=contexts)
@settings(deadline=None, max_examples=50)
def test_the_newest_places_vote(max_places: int, text: list[int], context: list[int]) -> None:
    found = filled(text, capacity=ROOMY).continuation(context, max_places=max_places)
    assert shifted(found, -ROOMY) == slow_continuation(text, context, max_places=max_places)


def test_in_a_roomy_index_no_runs_of_the_test_above_collide() -> None:
    tokens = (0, 1, 2, BOUNDARY)
    runs = [(a, b, c, d) for a in tokens for b in tokens for c in tokens for d in tokens]
    for order in (4, 2, 1):
        shortened = {run[-order:] for run in runs}
        assert len({hash(run) & (2 * ROOMY - 1) for run in shortened}) == len(shortened)


# By hand


def test_the_longest_run_decides_and_of_its_places_the_majority() -> None:
    text = [1, 2, 3, 4, 50, 1, 2, 3, 4, 60, 1, 2, 3, 4, 50, 9, 3, 4, 70]
    found = filled(text).continuation([1, 2, 3, 4])
    assert found is not None
    assert (found.token_id, found.match, found.votes, found.places) == (50, 4, 2, 3)
    assert found.position == SMALLEST + 14, "the newest place that it followed"


@pytest.mark.parametrize(("followers", "best"), [([5, 6], 6), ([5, 6, 6, 5], 5), ([5, 5, 6, 7], 5), ([5, 6, 7], 7)])
def test_of_equally_many_the_newest_wins(followers: list[int], best: int) -> None:
    text = [token_id for follower in followers for token_id in (1, 2, 3, 4, follower)]
    found = filled(text).continuation([1, 2, 3, 4])
    assert found is not None and found.token_id == best


@pytest.mark.parametrize("length", range(1, 41))
def test_the_length_of_a_match_is_told_in_steps(length: int) -> None:
    same = [*range(100, 100 + length)]
    found = filled([7, *same, 8], capacity=128).continuation([6, *same][-LONGEST_MATCH:])
    assert found is not None
    assert found.match == max(step for step in (1, 2, 3, 4, 8, 16, 32) if step <= length)


def test_a_match_does_not_reach_back_to_what_has_fallen_out() -> None:
    # In the ring, the newest tokens lie where those before 5 were.
    text = [5, 6, 7, 8, 9, *range(100, 155), 1, 2, 3, 4]
    assert len(text) == SMALLEST
    found = filled(text).continuation([1, 2, 3, 4, 5, 6, 7, 8])
    assert found is not None
    assert (found.token_id, found.match) == (9, 4)


def test_nothing_follows_a_run_that_stands_only_at_the_end() -> None:
    assert filled([1, 2, 3, 4]).continuation([1, 2, 3, 4]) is None


def test_an_empty_index_knows_nothing() -> None:
    assert SuffixIndex(SMALLEST).continuation([1, 2, 3, 4]) is None


# Boundaries


def test_no_match_runs_over_a_boundary() -> None:
    found = filled([1, 2, BOUNDARY, 3, 4, 9]).continuation([1, 2, 3, 4])
    assert found is not None
    assert (found.token_id, found.match) == (9, 2)


def test_a_boundary_is_never_guessed() -> None:
    assert filled([1, 2, 3, 4, BOUNDARY, 5]).continuation([1, 2, 3, 4]) is None
    index = filled([1, 2, 3, BOUNDARY, 4, 5])
    assert index.following(SMALLEST, 9) == [1, 2, 3]
    assert index.following(SMALLEST + 3, 9) == []


@given(text=texts(max_size=300), start=st.integers(0, 300), limit=st.integers(0, 40))
def test_following_copies_the_text_up_to_a_boundary_or_its_end(text: list[int], start: int, limit: int) -> None:
    assume(max(0, len(text) - SMALLEST) <= start <= len(text))
    assert filled(text).following(SMALLEST + start, limit) == slow_following(text, start, limit)


@pytest.mark.parametrize(
    ("copied", "wanted", "found"),
    [([1, 2, 3], 7, [1, 2, 3, 1, 2, 3, 1]), ([1, 2, 3], 3, [1, 2, 3]), ([1, 2, 3], 2, [1, 2]), ([], 5, [])],
)
def test_a_copy_that_reaches_the_end_of_the_text_goes_on_with_itself(
    copied: list[int], wanted: int, found: list[int]
) -> None:
    assert overlapping(copied, wanted) == found


# Bounds


def test_memory_does_not_grow_with_what_is_added() -> None:
    capacity = 1024
    tokens = range(1000, 1000 + 10 * capacity)
    tracemalloc.start()
    index = SuffixIndex(capacity)
    index.add(tokens)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150 * capacity
    assert index.following(index.end - 3, 9) == [*tokens[-3:]]


@pytest.mark.parametrize("capacity", [0, 32, 63, 100, -64])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ConfigError, match=f"a power of two from 64 on, got {capacity}"):
        SuffixIndex(capacity)


@pytest.mark.parametrize(
    ("num_tokens", "capacity"), [(1, 64), (64, 64), (65, 128), (1024, 1024), (1025, 2048), (10**6, 16384)]
)
def test_an_index_over_one_text_holds_all_of_it_or_its_end(num_tokens: int, capacity: int) -> None:
    assert TextIndex(num_tokens).capacity == capacity
