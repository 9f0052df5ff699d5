"""Prompt lookup: the newest of the longest matches is copied, as far as the evidence goes."""

from __future__ import annotations

import pytest
from decoding import OPTIONS, plain_text, run
from hypothesis import given
from hypothesis import strategies as st

from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import DrafterContext, open_drafter
from skipstone.runtime.methods.from_text import NgramDrafter
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import LONGEST_MATCH, TextIndex

PLANNER = 0.01  # a `min_chance` as a planner gives it


def proposed(history: list[int], *, limit: int = 15, min_chance: float = 0.0) -> Draft:
    return NgramDrafter(TextIndex(1024)).propose(history, limit=limit, min_chance=min_chance)


def slow_places(history: list[int]) -> tuple[int, list[int]]:
    """Return the longest of the run lengths told apart that stood before, and where it ended, newest first."""
    for length in (4, 2, 1):
        run = history[-length:]
        places = [end for end in range(len(history) - 1, length - 1, -1) if history[end - length : end] == run]
        if len(run) == length and places:
            return length, places
    return 0, []


@given(history=st.lists(st.integers(0, 3), min_size=4, max_size=60), limit=st.integers(1, 15))
def test_a_planner_gets_all_that_stands_behind_the_newest_of_the_longest_matches(
    history: list[int], limit: int
) -> None:
    _, places = slow_places(history)
    wanted: list[int] = []
    copied = [*history]
    for depth in range(limit if places else 0):
        copied.append(copied[places[0] + depth])  # behind the end of the text, what was copied is copied on
        wanted.append(copied[-1])
    draft = proposed(history, limit=limit, min_chance=PLANNER)
    assert (list(draft.token_ids), draft.is_chain) == (wanted, True)


@given(history=st.lists(st.integers(0, 3), min_size=4, max_size=60), limit=st.integers(1, 15))
def test_by_itself_it_copies_the_start_of_that_and_no_more_than_matched(history: list[int], limit: int) -> None:
    length, places = slow_places(history)
    draft, more = proposed(history, limit=limit), proposed(history, limit=limit, min_chance=PLANNER)
    assert draft.token_ids == more.token_ids[: len(draft)]
    assert bool(draft) == bool(places)
    if places:
        matched = max(
            size for size in range(length, places[0] + 1) if history[places[0] - size : places[0]] == history[-size:]
        )
        assert len(draft) <= min(limit, matched)


@given(history=st.lists(st.integers(0, 3), min_size=1, max_size=60), cuts=st.lists(st.integers(1, 60), max_size=6))
def test_a_growing_text_is_read_once_and_gives_the_same_guesses(history: list[int], cuts: list[int]) -> None:
    drafter = NgramDrafter(TextIndex(1024))
    for length in [*sorted(cut for cut in cuts if cut < len(history)), len(history)]:
        assert drafter.propose(history[:length], limit=9) == proposed(history[:length], limit=9)


def test_the_newest_match_wins_where_an_older_one_went_on_otherwise() -> None:
    assert proposed([1, 2, 3, 4, 50, 1, 2, 3, 4, 60, 1, 2, 3, 4]).token_ids == (60, 1, 2, 3)


def test_a_longer_match_wins_over_a_newer_one() -> None:
    assert proposed([1, 2, 3, 4, 50, 8, 3, 4, 60, 1, 2, 3, 4]).token_ids[0] == 50


@pytest.mark.parametrize(("matched", "copied"), [(1, 1), (2, 2), (3, 3), (4, 4), (7, 4), (8, 8), (12, 8)])
def test_longer_matches_are_copied_further(matched: int, copied: int) -> None:
    same = [*range(100, 100 + matched)]
    history = [1, *same, *range(200, 220), 2, *same]
    assert proposed(history).token_ids == tuple(range(200, 200 + copied))
    assert proposed(history, limit=15, min_chance=PLANNER).token_ids == tuple(range(200, 215))


@pytest.mark.parametrize("min_chance", [0.0, PLANNER])
def test_a_limit_is_kept(min_chance: float) -> None:
    history = [*range(100, 130), 2, *range(100, 110)]
    for limit in range(1, 9):
        assert proposed(history, limit=limit, min_chance=min_chance).token_ids == tuple(range(110, 110 + limit))


def test_levels_are_the_length_of_the_match_which_grows_while_copying() -> None:
    draft = proposed([1, 5, 6, *range(200, 240), 2, 5, 6], limit=15, min_chance=PLANNER)
    assert draft.levels == tuple(range(2, 17))
    same = [*range(100, 140)]
    assert set(proposed([1, *same, *range(200, 210), 2, *same]).levels) == {LONGEST_MATCH}


@pytest.mark.parametrize("history", [[1], [1, 2, 3, 4, 5, 6]])
def test_a_text_that_never_repeats_gives_no_guess(history: list[int]) -> None:
    assert len(proposed(history)) == 0


@given(period=st.integers(1, 9), num_more=st.integers(0, 60), limit=st.integers(1, 31))
def test_a_loop_goes_on_behind_the_end_of_the_text(period: int, num_more: int, limit: int) -> None:
    loop = [1 + place % period for place in range(2 * period + num_more + limit)]
    length = 2 * period + num_more
    draft = proposed([100, 101, *loop[:length]], limit=limit, min_chance=PLANNER)
    assert list(draft.token_ids) == loop[length : length + limit]


def test_of_a_text_longer_than_the_index_the_end_is_known() -> None:
    drafter = NgramDrafter(TextIndex(64))
    early, late = [1, 2, 3, 4, 50], [5, 6, 7, 8, 60]
    history = [*early, *range(100, 200), *late, *range(200, 240)]
    assert len(drafter.propose([*history, *early[:4]], limit=9)) == 0
    drafter = NgramDrafter(TextIndex(64))
    assert drafter.propose([*history, *late[:4]], limit=1).token_ids == (60,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding(tiny: Model, options: SamplingOptions) -> None:
    text, steps = run(tiny, NgramDrafter(TextIndex(256)), options=options)
    assert text == plain_text(tiny, options, 16)
    assert {step.drafter for step in steps if step.num_drafted} <= {"ngram"}


def test_it_is_opened_with_room_for_the_whole_text_and_under_every_rule(tiny: Model) -> None:
    for rule in ("match", "rejection", "k-seq"):
        context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), rule=rule)  # type: ignore[arg-type]
        drafter = open_drafter("ngram", context)
        assert drafter.name == "ngram"
        history = [1, 2, 3, 4, 50, *range(60, 300), 1, 2, 3, 4]
        assert drafter.propose(history, limit=1).token_ids == (50,)


def test_longer_matches_are_better_evidence() -> None:
    drafter = NgramDrafter(TextIndex(64))
    chances = [drafter.prior(level) for level in range(1, LONGEST_MATCH + 1)]
    assert chances == sorted(chances) and len(set(chances)) == 7
    assert chances[0] > 0 and chances[-1] < 1
