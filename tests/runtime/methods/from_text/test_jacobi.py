"""Jacobi decoding: the model's own choices behind a wrong guess are the next guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import PlainDrafter, Round, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import DrafterContext, open_drafter
from skipstone.runtime.methods.from_text import CHANGED, FRESH, KINDS, STABLE, JacobiDrafter
from skipstone.runtime.sampling import RepetitionPenalty, Sampler, SamplingOptions

PROMPT = [1, 50, 60, 70]
OPTIONS = [
    SamplingOptions(),
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
]
GREEDY = Sampler(greedy=True)
VOCAB_SIZE = 32
Row = Callable[[list[int]], NDArray[np.float32]]


@dataclass
class TableModel:
    """A model whose logits after a text are given by a function, and the text that it makes with a Jacobi drafter."""

    row: Row
    text: list[int]
    sampler: Sampler = GREEDY
    stop_ids: tuple[int, ...] = ()
    drafts: list[Draft] = field(default_factory=list)

    def run(self, num_rounds: int, *, window: int = 3, limit: int = 99) -> list[int]:
        """Make a plain step and then `num_rounds` with drafts; return how many tokens each gave."""
        drafter = JacobiDrafter(self.sampler, self.text, stop_ids=self.stop_ids, window=window)
        counts = [self._step(drafter, Draft.empty())]
        for _ in range(num_rounds):
            self.drafts.append(drafter.propose(self.text, limit=limit))
            counts.append(self._step(drafter, self.drafts[-1]))
        return counts

    def _step(self, drafter: JacobiDrafter, draft: Draft) -> int:
        fed, pending_id = [*self.text, *draft.token_ids], self.text[-1]
        logits = np.stack([self.row(fed[:length]) for length in range(len(self.text), len(fed) + 1)])
        accepted = match(self.sampler, self.text)(draft, logits)
        self.text.extend(accepted)
        drafter.observe(Round(draft, pending_id, accepted, draft.path(accepted), logits))
        return len(accepted)


def one_hot(token_id: int) -> NDArray[np.float32]:
    return np.eye(VOCAB_SIZE, dtype=np.float32)[token_id]


def flat(_: Sequence[int]) -> NDArray[np.float32]:
    return np.zeros(VOCAB_SIZE, np.float32)


def run(model: Model, sampler: Sampler, *, exact: bool, plain: bool = False) -> list[int]:
    """Return the text of decoding."""
    sequence = model.new_sequence(exact=exact)
    sequence.append(PROMPT)
    context = DrafterContext(model=model, sampler=sampler, sequence=sequence, trees=sequence.takes_trees)
    drafter = PlainDrafter() if plain else open_drafter("jacobi", context)
    accept = match(sampler, sequence.token_ids)
    for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=()):
        assert len(step.token_ids) <= 1 + step.num_drafted
    return sequence.token_ids


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding(tiny: Model, options: SamplingOptions, exact: bool) -> None:
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))
    assert run(tiny, sampler, exact=exact) == run(tiny, sampler, exact=exact, plain=True)


# What it guesses


def test_a_text_that_does_not_hang_on_its_last_tokens_is_right_the_second_time() -> None:
    model = TableModel(lambda text: one_hot(len(text)), [0])
    # A window of three is guessed at once from wrong tokens; when all was right, nothing is left to start from.
    assert model.run(6) == [1, 1, 4, 1, 4, 1, 4]
    assert model.text == list(range(17))


def test_a_text_that_comes_to_rest_is_guessed_there() -> None:
    model = TableModel(lambda text: one_hot(text[-1] // 2), [31])
    counts = model.run(8)
    assert model.text[:6] == [31, 15, 7, 3, 1, 0] and set(model.text[6:]) == {0}
    assert counts[0] == counts[1] == 1 and counts[-1] == 4


def test_draws_are_made_with_the_noise_of_their_positions() -> None:
    model = TableModel(flat, [0], Sampler(seed=7))
    assert model.run(6) == [1, 1, 4, 1, 4, 1, 4]


def test_choices_look_back_at_the_choices_before_them() -> None:
    # The penalty falls on every token of the text, so each choice depends on all before it, guesses too.
    def falling(_: Sequence[int]) -> NDArray[np.float32]:
        return np.linspace(2, 1, VOCAB_SIZE, dtype=np.float32)

    model = TableModel(falling, [9], Sampler(processors=(RepetitionPenalty(3.0),), greedy=True))
    assert model.run(4) == [1, 1, 4, 1, 4]
    assert model.text == [9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]


def slow_jacobi(
    successor: Sequence[int], start: int, num_rounds: int, window: int
) -> tuple[list[int], list[list[int]]]:
    """Return text and drafts of Jacobi iteration by its definition: a guess for each position, fed, then replaced."""
    text, guesses, drafts = [start, successor[start]], dict[int, int](), []
    for _ in range(num_rounds):
        draft: list[int] = []
        for position in range(len(text), len(text) + window):
            draft.append(guesses.get(position, draft[-1] if draft else text[-1]))
        fed = [*text, *draft]
        guesses = {position: successor[fed[position - 1]] for position in range(len(text), len(fed) + 1)}
        while fed[len(text) : len(text) + 1] == [successor[text[-1]]]:
            text.append(successor[text[-1]])
        text.append(successor[text[-1]])
        drafts.append(draft)
    return text, drafts


@given(
    successor=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE),
    window=st.integers(1, 5),
)
def test_drafts_are_those_of_jacobi_iteration(successor: list[int], window: int) -> None:
    model = TableModel(lambda text: one_hot(successor[text[-1]]), [0])
    model.run(8, window=window)
    text, drafts = slow_jacobi(successor, 0, 8, window)
    assert model.text == text
    assert [list(draft.token_ids) for draft in model.drafts] == drafts


# Levels, limits, stop tokens


def kinds_of(draft: Draft) -> list[int]:
    assert [level // len(KINDS) for level in draft.levels] == list(range(len(draft)))
    return [level % len(KINDS) for level in draft.levels]


def test_a_level_tells_depth_and_what_a_guess_rests_on() -> None:
    text = [5]
    drafter = JacobiDrafter(GREEDY, text, window=4)
    assert kinds_of(drafter.propose(text, limit=9)) == [FRESH] * 4
    # Row 0 chose 6, so all guesses are wrong; rows 1 to 4 chose 8, 3, 7, 1, where 5, 3, 2 and nothing had been guessed.
    draft = Draft.chain([4, 5, 3, 2], source="jacobi")
    text.append(6)
    drafter.observe(Round(draft, 5, [6], [0], np.stack([one_hot(token_id) for token_id in (6, 8, 3, 7, 1)])))
    draft = drafter.propose(text, limit=9)
    assert draft.token_ids == (8, 3, 7, 1)
    assert kinds_of(draft) == [CHANGED, STABLE, CHANGED, CHANGED]
    # 8 and 3 were right, then came 9; of the rows behind it the last one is left.
    text += [8, 3, 9]
    drafter.observe(
        Round(draft, 6, [8, 3, 9], [0, 1, 2], np.stack([one_hot(token_id) for token_id in (8, 3, 9, 1, 2)]))
    )
    draft = drafter.propose(text, limit=9)
    assert draft.token_ids == (1, 2, 2, 2)
    assert kinds_of(draft) == [STABLE, CHANGED, FRESH, FRESH]
    assert [drafter.prior(level) for level in draft.levels] == [0.1, 0.05, 0.01, 0.01]


@pytest.mark.parametrize("limit", range(1, 6))
def test_no_more_is_guessed_than_asked_for(limit: int) -> None:
    model = TableModel(lambda text: one_hot(len(text)), [0])
    model.run(4, limit=limit)
    assert [len(draft) for draft in model.drafts] == [min(limit, 3)] * 4
    assert model.text == list(range(len(model.text)))


def test_nothing_is_guessed_behind_a_stop_token() -> None:
    model = TableModel(lambda text: one_hot(len(text)), [0], stop_ids=(4,))
    model.run(2)
    assert [draft.token_ids for draft in model.drafts] == [(1, 1, 1), (3, 4)]


def test_it_learns_from_a_chain_of_another_drafter_and_leaves_a_tree_alone() -> None:
    text = [5, 6]
    drafter = JacobiDrafter(GREEDY, text, window=2)
    logits = np.stack([one_hot(token_id) for token_id in (6, 8, 3, 7, 1)])
    drafter.observe(Round(Draft.chain([9, 8, 7, 6], source="ngram"), 5, [6], [0], logits))
    assert drafter.propose(text, limit=9).token_ids == (8, 3)
    drafter.observe(Round(Draft((9, 8, 7, 6), "recycle", (0, 0, 1, 1)), 5, [6], [0], logits))
    assert drafter.propose(text, limit=9).token_ids == (6, 6)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 guess, got 0"):
        JacobiDrafter(GREEDY, [1], window=0)


def test_rules_that_need_laws_are_refused(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=GREEDY, sequence=tiny.new_sequence(), rule="k-seq")
    with pytest.raises(ConfigError, match="the rule k-seq needs; use match"):
        open_drafter("jacobi", context)
