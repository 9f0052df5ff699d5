"""Lookahead: a window of rows makes n-grams, and a pool keeps them as guesses for what follows their first token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import PlainDrafter, Round, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import DrafterContext, open_drafter
from skipstone.runtime.methods.from_text import WINDOW_LEVEL, LookaheadDrafter, NgramPool
from skipstone.runtime.sampling import Sampler, SamplingOptions

PROMPT = [1, 50, 60, 70]
OPTIONS = [
    SamplingOptions(),
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
]
VOCAB_SIZE = 100
# No token stands twice, so the pool has nothing for the last one.
TEXT = [10, 11, 12, 13, 14, 15, 16]


def run(model: Model, options: SamplingOptions, *, plain: bool = False) -> tuple[list[int], list[Step]]:
    """Return the text and the steps of decoding it."""
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))
    context = DrafterContext(model=model, sampler=sampler, sequence=sequence)
    drafter = PlainDrafter() if plain else open_drafter("lookahead", context)
    accept = match(sampler, sequence.token_ids)
    steps = list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=()))
    return sequence.token_ids, steps


def seen_round(draft: Draft, pending_id: int, token_ids: list[int], choices: list[int]) -> Round:
    """Return a round whose rows, one after the other, make these tokens the likeliest."""
    return Round(draft, pending_id, token_ids, draft.path(token_ids), np.eye(VOCAB_SIZE, dtype=np.float32)[choices])


def window_of(draft: Draft) -> list[int]:
    return [token_id for token_id, level in zip(draft.token_ids, draft.levels, strict=True) if level == WINDOW_LEVEL]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding(tiny: Model, options: SamplingOptions) -> None:
    text, steps = run(tiny, options)
    assert text == run(tiny, options, plain=True)[0]
    assert max(step.num_drafted for step in steps) >= 6
    assert {step.drafter for step in steps[1:-1] if step.num_drafted} == {"lookahead"}


# The pool


@given(ngrams=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3)), num_guesses=st.integers(1, 3))
def test_the_pool_gives_the_last_runs_that_followed_a_token(ngrams: list[list[int]], num_guesses: int) -> None:
    pool = NgramPool(size=3, num_guesses=num_guesses)
    for ngram in ngrams:
        pool.add(ngram)
    for token_id in range(3):
        runs = [(second, third) for first, second, third in reversed(ngrams) if first == token_id]
        assert pool.runs(token_id) == list(dict.fromkeys(runs))[:num_guesses]


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=20), pieces=st.lists(st.integers(1, 20), max_size=4))
def test_the_text_is_read_once_however_it_grows(text: list[int], pieces: list[int]) -> None:
    grown = LookaheadDrafter()
    for length in sorted(piece for piece in pieces if piece < len(text)):
        grown.propose(text[:length], limit=4)
    pool = NgramPool(size=3, num_guesses=2)
    for start in range(len(text) - 2):
        pool.add(text[start : start + 3])
    draft = grown.propose(text, limit=4)
    runs = pool.runs(text[-1])
    for run in runs:
        assert len(draft.path(run)) == 3
    if runs:
        assert draft.token_ids[:2] == runs[0] and draft.levels[:2] == (1, 2)


# The window


def test_the_window_is_a_comb_behind_the_runs_of_the_pool() -> None:
    text = [7, 20, 21, 7, 30, 31, 7]
    drafter = LookaheadDrafter()
    draft = drafter.propose(text, limit=99)
    # The runs 30 31 and 20 21 from the pool; then the columns 7 20, 21 7, 30 31, cut from the text.
    assert draft.token_ids == (30, 31, 20, 21, 7, 20, 21, 7, 30, 31)
    assert draft.parents == (0, 1, 0, 3, 0, 5, 5, 7, 7, 9)
    assert draft.levels == (1, 2, 3, 4, *[WINDOW_LEVEL] * 6)
    assert [drafter.prior(level) for level in draft.levels] == [0.5] * 4 + [0.03] * 6


def test_columns_move_on_and_what_they_make_joins_the_pool() -> None:
    text = [*TEXT]
    drafter = LookaheadDrafter(window=2)
    draft = drafter.propose(text, limit=99)
    # Columns 10 11 and 12 13: rows 1 and 2, and rows 3 and 4.
    assert (draft.token_ids, draft.parents) == ((10, 11, 12, 13), (0, 1, 1, 3))
    text.append(50)
    drafter.observe(seen_round(draft, 16, [50], [50, 90, 40, 91, 41]))
    draft = drafter.propose(text, limit=99)
    # Now 11 40 and 13 41; the rows of 40 and 41 make 42 and 43.
    assert (draft.token_ids, draft.parents) == ((11, 40, 13, 41), (0, 1, 1, 3))
    text.append(11)
    drafter.observe(seen_round(draft, 50, [11, 12], [11, 12, 42, 92, 43]))
    text.append(12)
    # 11 of the window was right, so the text is two tokens further on: the first column is behind it, the second is
    # now 41 43, and a new one comes from the text. After 11 came 12 11 in the text, and 40 42 in the window.
    draft = drafter.propose([*text, 11], limit=99)
    assert draft.token_ids[:4] == (12, 11, 40, 42)
    assert window_of(draft) == [41, 43, 14, 15]
    # After 13 came 14 15 in the text, and later 41 43 in the window.
    assert drafter.propose([*text, 11, 13], limit=4).token_ids == (41, 43, 14, 15)


def test_a_guess_of_pool_and_window_shares_a_row_and_counts_as_a_real_one() -> None:
    draft = LookaheadDrafter(window=1).propose([7, 8, 7], limit=99)
    # The run 8 7 and the column 7 8; in the other text, both are 7 7.
    assert (draft.token_ids, draft.levels) == ((8, 7, 7, 8), (1, 2, WINDOW_LEVEL, WINDOW_LEVEL))
    draft = LookaheadDrafter(window=1).propose([7, 7, 7], limit=99)
    assert (draft.token_ids, draft.levels) == ((7, 7), (1, 2))


@pytest.mark.parametrize("limit", range(1, 12))
def test_where_the_window_does_not_fit_the_pool_guesses_alone(limit: int) -> None:
    text = [7, 20, 21, 7, 30, 31, 7]
    drafter = LookaheadDrafter()
    whole = LookaheadDrafter().propose(text, limit=99)
    draft = drafter.propose(text, limit=limit)
    assert len(draft) == (10 if limit >= 10 else min(limit, 4))
    assert draft == whole.keep(range(1, len(draft) + 1))
    drafter.observe(seen_round(draft, 7, [9], [9] * (1 + len(draft))))
    moved = window_of(drafter.propose([*text, 9], limit=99)) != window_of(whole)
    assert moved == (limit >= 10)


def test_the_window_waits_while_others_draft_or_rows_are_left_out() -> None:
    drafter = LookaheadDrafter()
    draft = drafter.propose(TEXT, limit=99)
    drafter.observe(seen_round(draft.keep([1]), 16, [9], [9, 9]))
    drafter.observe(seen_round(Draft.empty(), 16, [9], [9]))
    assert drafter.propose([*TEXT, 9], limit=99) == draft


def test_a_column_that_comes_to_a_stop_token_is_replaced() -> None:
    drafter = LookaheadDrafter(window=2, stop_ids=(40,))
    draft = drafter.propose(TEXT, limit=99)
    drafter.observe(seen_round(draft, 16, [50], [50, 90, 40, 91, 41]))
    assert drafter.propose([*TEXT, 50], limit=99).token_ids == (13, 41, 14, 15)


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    limits=st.lists(st.integers(1, 14), max_size=8),
    window=st.integers(1, 4),
    ngram=st.integers(2, 4),
    seed=st.integers(0, 2**32),
)
def test_drafts_keep_to_the_limit_on_any_text(
    text: list[int], limits: list[int], window: int, ngram: int, seed: int
) -> None:
    drafter, random = LookaheadDrafter(window=window, ngram=ngram), np.random.default_rng(seed)
    for limit in limits:
        draft = drafter.propose(text, limit=limit)
        assert len(draft) <= limit
        choices = random.integers(0, 4, size=1 + len(draft)).tolist()
        logits = np.eye(VOCAB_SIZE, dtype=np.float32)[choices]
        accepted = match(Sampler(greedy=True), text)(draft, logits)
        pending_id = text[-1]
        text = [*text, *accepted]
        drafter.observe(Round(draft, pending_id, accepted, draft.path(accepted), logits))


# What it refuses


def test_where_drafts_may_not_branch_jacobi_is_named_instead(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), trees=False)
    with pytest.raises(ConfigError, match="use jacobi"):
        open_drafter("lookahead", context)


def test_rules_that_need_laws_are_refused(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), rule="rejection")
    with pytest.raises(ConfigError, match="the rule rejection needs; use match"):
        open_drafter("lookahead", context)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"ngram": 1}, {"num_guesses": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="a window from 1, n-grams from 2 and guesses from 1"):
        LookaheadDrafter(**wrong)
