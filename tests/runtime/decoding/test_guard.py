"""The guard: a drafter that fails is left out, said once, and the text goes on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence as SequenceOf

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import MISDEEDS, fail

from skipstone.runtime.decoding import Drafter, Guard, Round
from skipstone.runtime.engine import Draft, Model, Sequence

ROUND = Round(Draft.empty(), 5, [6], [0], np.zeros((1, 307), np.float32))


class Saying(Drafter):
    """Proposes what it was made with, and notes what it was asked."""

    name = "saying"

    def __init__(self, draft: Draft = Draft.empty()) -> None:  # noqa: B008 - it never changes
        self.draft = draft
        self.asked: list[tuple[list[int], int, float]] = []
        self.seen: list[Round] = []
        self.finished: list[list[int]] = []

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.asked.append(([*history], limit, min_chance))
        return self.draft

    def prior(self, level: int) -> float:
        return level / 10

    def observe(self, seen: Round) -> None:
        self.seen.append(seen)

    def finish(self, history: SequenceOf[int]) -> None:
        self.finished.append([*history])


@pytest.fixture
def sequence(tiny: Model) -> Sequence:
    sequence = tiny.new_sequence(context_length=12)
    sequence.append([5, 6, 7])
    return sequence


def test_a_guard_passes_everything_on_to_a_good_drafter(sequence: Sequence) -> None:
    drafter = Saying(Draft.chain([8, 9], source="saying"))
    guard = Guard(drafter, sequence)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guard.propose(4, min_chance=0.25) is drafter.draft
        guard.observe(ROUND)
        guard.finish()
    assert (guard.name, guard.prior(3)) == ("saying", 0.3)
    assert drafter.asked == [([5, 6, 7], 4, 0.25)]
    assert (drafter.seen, drafter.finished) == ([ROUND], [[5, 6, 7]])


@pytest.mark.parametrize(("limit", "asked"), [(0, []), (-1, []), (1, [1]), (9, [9]), (10, [9])])
def test_no_more_is_asked_for_than_fits_and_nothing_where_nothing_fits(
    sequence: Sequence, limit: int, asked: list[int]
) -> None:
    drafter = Saying()
    assert len(Guard(drafter, sequence).propose(limit)) == 0
    assert [limit for _, limit, _ in drafter.asked] == asked


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("misdeed", list(MISDEEDS))
def test_a_drafter_that_does_wrong_is_left_out_with_one_warning(sequence: Sequence, misdeed: str, limit: int) -> None:
    class Wrong(Saying):
        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            super().propose(history, limit=limit)
            draft: Draft = MISDEEDS[misdeed](limit)
            return draft

    drafter = Wrong()
    guard = Guard(drafter, sequence)
    with pytest.warns(RuntimeWarning, match="drafter saying failed and is left out for the rest of this text") as said:
        for _ in range(3):
            assert len(guard.propose(limit)) == 0
            guard.observe(ROUND)
        guard.finish()
    assert len(said) == 1
    assert (len(drafter.asked), drafter.seen, drafter.finished) == (1, [], [])
    assert guard.name == "plain"


@pytest.mark.parametrize("verb", ["observe", "finish"])
def test_a_drafter_that_fails_while_it_learns_is_left_out_with_one_warning(sequence: Sequence, verb: str) -> None:
    drafter = Saying(Draft.chain([8], source="saying"))
    setattr(drafter, verb, fail)
    guard = Guard(drafter, sequence)
    with pytest.warns(RuntimeWarning, match="which stays the same: out of order") as said:
        assert len(guard.propose(3)) == 1
        guard.observe(ROUND)
        assert len(guard.propose(3)) == (0 if verb == "observe" else 1)
        guard.finish()
        guard.finish()
    assert len(said) == 1


def test_a_drafter_without_a_name_is_left_out_by_the_name_of_its_class(sequence: Sequence) -> None:
    class Nameless(Drafter):
        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            raise ValueError("no luck")

    with pytest.warns(RuntimeWarning, match="drafter Nameless failed .*: no luck"):
        assert len(Guard(Nameless(), sequence).propose(3)) == 0


def test_a_tree_is_refused_where_the_text_takes_chains_only(
    tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    windowed = Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2"))
    for sequence in (tiny.new_sequence(exact=True), windowed.new_sequence()):
        sequence.append([5, 6, 7])
        assert len(Guard(Saying(Draft.chain([8, 9], source="saying")), sequence).propose(4)) == 2
        with pytest.warns(RuntimeWarning, match="drafter saying failed .*: this sequence takes chains only"):
            assert len(Guard(Saying(Draft((8, 9), "saying", (0, 0))), sequence).propose(4)) == 0


def test_a_tree_is_refused_behind_a_single_token(tiny: Model) -> None:
    sequence = tiny.new_sequence()
    sequence.append([5])
    assert len(Guard(Saying(Draft.chain([8, 9], source="saying")), sequence).propose(4)) == 2
    with pytest.warns(RuntimeWarning, match="drafter saying failed .*: a tree needs a token before the pending one"):
        assert len(Guard(Saying(Draft((8, 9), "saying", (0, 0))), sequence).propose(4)) == 0


def test_ctrl_c_in_a_drafter_is_the_users_and_ends_the_text(sequence: Sequence) -> None:
    class Interrupted(Drafter):
        name = "interrupted"

        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard(Interrupted(), sequence).propose(3)


def test_who_inherits_needs_to_propose_only(sequence: Sequence) -> None:
    class Modest(Drafter):
        name = "modest"

        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            return Draft.chain([history[-1]], source=self.name)

    guard = Guard(Modest(), sequence)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guard.propose(3).token_ids == (7,)
        guard.observe(ROUND)
        guard.finish()
    assert 0 < guard.prior(0) < 1
