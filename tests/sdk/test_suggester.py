"""A suggester gives at each key what a fresh call gives, reads only what changed, and ends when it is told to."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from model_calls import watching
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import BoundCall, Model
from skipstone.runtime.suggest import Suggestion
from skipstone.suggester import Suggester

WORDS = [
    "def ",
    "add",
    "(first",
    ", second",
    "):\n    ",
    "return ",
    "first ",
    "+ ",
    "class ",
    "Seq",
    "é",
    "猫",
    "\n",
    " ",
]
OPTIONS = {"num_drafts": 2, "max_new_tokens": 2, "method": "branch"}


@pytest.fixture(scope="module")
def model(tiny: Model) -> LanguageModel:
    return LanguageModel(tiny)


def edited(text: str, last: list[Suggestion], chance: random.Random) -> str:
    """What may happen to a text: a key, a word, some letters less, a change further back, a suggestion taken."""
    place = chance.randrange(len(text) + 1)
    changed = chance.choice(
        [
            text + chance.choice("abcdefr (:\n"),
            text + chance.choice(WORDS),
            text[: -chance.randint(1, 5)],
            text[:place] + chance.choice(WORDS) + text[place:],
            text[:place] + text[place + chance.randint(1, 3) :],
            text + chance.choice(last).text if last else text,
        ]
    )
    return changed[-80:] or "d"


def same(one: list[Suggestion], other: list[Suggestion]) -> bool:
    """Whether drafts are equal up to the last bits of float32, by which two equal scores may change places."""
    scores = [[draft.score for draft in drafts] for drafts in (one, other)]
    return {draft.token_ids for draft in one} == {draft.token_ids for draft in other} and np.allclose(
        *scores, atol=1e-4
    )


@pytest.mark.parametrize("num_edits", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_edits_give_what_fresh_calls_give(model: LanguageModel, num_edits: int) -> None:
    chance, suggester = random.Random(num_edits), model.suggester(**OPTIONS)
    text, last = "def add(first", list[Suggestion]()
    for _ in range(num_edits):
        text = edited(text, last, chance)
        last = suggester.suggest(text)
        assert same(last, model.suggest(text, **OPTIONS)), text


def fed(suggester: Suggester, text: str) -> int:
    """How many rows the model reads for a text."""
    rows = list[int]()

    def count(call: BoundCall, token_ids: NDArray[np.int64], *_: object) -> None:
        rows.append(token_ids.shape[-1])

    with watching(count):
        suggester.suggest(text)
    return sum(rows)


def test_a_key_costs_the_word_not_the_prompt(model: LanguageModel) -> None:
    suggester = model.suggester(num_drafts=1, max_new_tokens=1)
    text = "def add(first, second):\n    return first + second\n" * 3
    assert fed(suggester, text + "def ad") > 60
    assert fed(suggester, text + "def add") < 20
    taken = text + "def add" + suggester.suggest(text + "def add")[0].text
    assert fed(suggester, taken + "(") < 20
    assert fed(suggester, text + "def ad") < 20


def test_a_call_ends_within_one_step_of_being_cancelled(model: LanguageModel) -> None:
    suggester, num_calls = model.suggester(max_new_tokens=50), 0

    def cancel_at_the_third(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            threading.Thread(target=suggester.cancel).start()
            while not suggester._num_cancelled:
                pass

    with watching(cancel_at_the_third):
        assert suggester.suggest("def add(first, secon") == []
    assert num_calls == 3
    assert same(suggester.suggest("def add(first"), model.suggest("def add(first", max_new_tokens=50))


def test_a_long_text_is_read_in_pieces_between_which_it_can_be_cancelled(model: LanguageModel) -> None:
    suggester, sizes = model.suggester(max_new_tokens=4), list[int]()

    def count(call: BoundCall, token_ids: NDArray[np.int64], *_: object) -> None:
        sizes.append(token_ids.shape[-1])
        suggester.cancel()

    with watching(count):
        assert suggester.suggest("q" * 240) == []
    assert sizes == [128]
    assert same(suggester.suggest("q" * 240), model.suggest("q" * 240, max_new_tokens=4))


def test_of_a_text_that_does_not_fit_the_end_is_read(model: LanguageModel) -> None:
    suggester = model.suggester(max_new_tokens=4, context_length=64)
    long = "def add(first, second):\n    return first + second\n" * 9
    drafts = suggester.suggest(long)
    assert len(drafts) == 3
    assert fed(suggester, long + "d") < 40


def test_the_first_words_alone_come_first(model: LanguageModel) -> None:
    suggester = model.suggester(max_new_tokens=6)
    assert {len(draft.token_ids) for draft in suggester.suggest("def add(", max_new_tokens=1)} == {1}
    assert same(suggester.suggest("def add("), model.suggest("def add(", max_new_tokens=6))


def test_whole_drafts_behind_the_first_words_take_the_same_border(model: LanguageModel) -> None:
    suggester, text = model.suggester(max_new_tokens=4, method="branch"), "def add(first, secon"
    fresh = model.suggester(max_new_tokens=4, method="branch")
    suggester.suggest(text, max_new_tokens=1)
    assert fed(suggester, text) < fed(fresh, text)
    assert same(suggester.suggest(text), model.suggest(text, max_new_tokens=4, method="branch"))


@pytest.mark.parametrize("model_type", ["mistral", "gpt2"])
def test_models_that_take_no_trees_complete_words_too(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, model_type: str
) -> None:
    window = {"sliding_window": 8} if model_type == "mistral" else {}
    model = LanguageModel(Model.open(make_bundle(make_checkpoint(model_type, **window))))
    suggester, text = model.suggester(max_new_tokens=4, method="branch"), "class Sequence:\n    def __in"
    for end in range(len(text) - 4, len(text) + 1):
        drafts = suggester.suggest(text[:end])
        assert same(drafts, model.suggest(text[:end], max_new_tokens=4, method="branch"))
    (draft,) = model.suggest(text, num_drafts=1, max_new_tokens=4, method="branch")
    assert draft.token_ids == model.generate(text, max_new_tokens=4, complete_words=True).token_ids


def test_an_empty_text_has_no_suggestions_and_a_small_context_is_refused(model: LanguageModel) -> None:
    assert model.suggester().suggest("") == []
    with pytest.raises(ConfigError, match="no room for drafts of 10"):
        model.suggester(context_length=8)
    with pytest.raises(ConfigError, match="more than the suggester's 10"):
        model.suggester().suggest("def ", max_new_tokens=11)
