"""Suggestions for a prompt that ends inside a word."""

from __future__ import annotations

import pytest

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.suggest.ways import WAYS


@pytest.fixture(scope="module")
def pebble() -> LanguageModel:
    return skipstone.load("pebble", threads=1)


@pytest.mark.parametrize("method", list(WAYS))
@pytest.mark.parametrize("prompt", ["impor", "import os\nimpor", "def f(x):\n    retu"])
def test_every_way_completes_the_word_first(pebble: LanguageModel, method: str, prompt: str) -> None:
    drafts = pebble.suggest(prompt, max_new_tokens=5, method=method)
    assert all(draft.text.startswith(("t", "rn")) for draft in drafts)
    assert len({draft.token_ids for draft in drafts}) == len(drafts) == 3
    assert [draft.score for draft in drafts] == sorted((draft.score for draft in drafts), reverse=True)
    assert all(len(draft.token_ids) <= 5 for draft in drafts)
    bare = pebble.suggest(prompt, max_new_tokens=5, method=method, complete_words=False)
    assert not any(draft.text.startswith(("t ", "rn ")) for draft in bare)


def test_with_one_token_the_drafts_are_the_likeliest_ends_of_the_word(pebble: LanguageModel) -> None:
    drafts = pebble.suggest("import os\nimpor", max_new_tokens=1)
    assert drafts[0].text == "t"
    assert len({draft.text for draft in drafts}) == 3
    assert [draft.score for draft in drafts] == sorted((draft.score for draft in drafts), reverse=True)


@pytest.mark.parametrize("prompt", ["def add(first, secon", "class Sequence:\n    def", "def"])
def test_one_branch_is_the_text_of_generate(tiny: Model, prompt: str) -> None:
    model = LanguageModel(tiny)
    (draft,) = model.suggest(prompt, num_drafts=1, max_new_tokens=8, method="branch")
    whole = model.generate(prompt, max_new_tokens=8, complete_words=True, decode="plain")
    assert draft.token_ids == whole.token_ids
    assert whole.text.startswith(draft.text)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 100])
def test_the_sequence_is_left_as_it_came_after_any_step(tiny: Model, num_steps: int) -> None:
    model, sequence = LanguageModel(tiny), tiny.new_sequence()
    prompt = model.encode("def add(first, secon")
    sequence.append(prompt)
    steps = model.way("branch")(sequence, model.suggest_request(max_new_tokens=4))
    for _ in zip(range(num_steps), steps, strict=False):
        pass
    steps.close()
    assert sequence.token_ids == prompt
    sequence.check()
