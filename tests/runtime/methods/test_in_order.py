"""Drafters in order of price: the first that has a guess drafts, all see every round, one failure is the end of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from decoding import OPTIONS, PROMPT, WildDrafter, fail, plain_text, run

from skipstone.runtime.decoding import Drafter, Guard, Round
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import InOrder
from skipstone.runtime.sampling import SamplingOptions

SEEN = Round(Draft.empty(), 1, [2], [0], np.zeros((0, 0), np.float32))


@dataclass
class Fixed(Drafter):
    """Guesses the same each time, and notes what it is told."""

    name: str
    guesses: list[int]
    told: list[object] = field(default_factory=list)

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.told.append((limit, min_chance))
        return Draft.chain(self.guesses[:limit], source=self.name)

    def observe(self, seen: Round) -> None:
        self.told.append(seen)

    def finish(self, history: Sequence[int]) -> None:
        self.told.append("finish")


@dataclass
class Broken(Fixed):
    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        draft: Draft = fail()
        return draft


def cascade(model: Model, *drafters: Drafter) -> InOrder:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    return InOrder([Guard(drafter, sequence) for drafter in drafters])


@pytest.mark.parametrize(
    ("guesses", "source"), [(([3], [4]), "first"), (([], [4]), "second"), (([3], []), "first"), (([], []), "plain")]
)
def test_the_first_that_has_a_guess_drafts(tiny: Model, guesses: tuple[list[int], list[int]], source: str) -> None:
    first, second = Fixed("first", guesses[0]), Fixed("second", guesses[1])
    draft = cascade(tiny, first, second).propose(PROMPT, limit=5)
    assert draft.source == source
    assert list(draft.token_ids) == (guesses[0] or guesses[1])
    assert len(second.told) == (0 if guesses[0] else 1), "who is not needed is not asked"


def test_limit_and_floor_reach_each_drafter(tiny: Model) -> None:
    first, second = Fixed("first", []), Fixed("second", [4, 5, 6])
    assert len(cascade(tiny, first, second).propose(PROMPT, limit=2, min_chance=0.3)) == 2
    assert first.told == second.told == [(2, 0.3)]


def test_all_see_every_round_and_the_end(tiny: Model) -> None:
    first, second = Fixed("first", []), Fixed("second", [])
    joined = cascade(tiny, first, second)
    joined.observe(SEEN)
    joined.finish(PROMPT)
    assert first.told == second.told == [SEEN, "finish"]


def test_its_name_tells_its_drafters_in_their_order(tiny: Model) -> None:
    assert cascade(tiny, Fixed("suffix", []), Fixed("model", [])).name == "suffix,model"


def test_one_that_fails_is_left_out_and_the_others_go_on(tiny: Model) -> None:
    joined = cascade(tiny, Broken("bad", []), Fixed("good", [4]))
    with pytest.warns(RuntimeWarning, match="drafter bad failed and is left out"):
        assert joined.propose(PROMPT, limit=5).source == "good"
    assert joined.propose(PROMPT, limit=5).source == "good"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding(tiny: Model, options: SamplingOptions) -> None:
    plain = plain_text(tiny, options, 16)

    class Through(Drafter):
        """A cascade needs the sequence of its text, which `run` makes itself: here each round has one of its own."""

        name = "through"

        def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            wild = [WildDrafter(plain, seed + len(history), branches=bool(seed)) for seed in (0, 1)]
            sequence = tiny.new_sequence()
            sequence.append(history)
            return InOrder([Guard(drafter, sequence) for drafter in wild]).propose(history, limit=limit)

    text, steps = run(tiny, Through(), options=options)
    assert text == plain
    assert {step.drafter for step in steps if step.num_drafted} == {"wild"}
