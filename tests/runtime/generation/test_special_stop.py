"""A stop string that is a special token, or holds one: the text ends there, with every method."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import AddedToken

from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation
from skipstone.runtime.text import Tokenizer

PROMPT = "def add(first, second):"
WithStopIds = Callable[..., Model]


@pytest.fixture(scope="module")
def whole(tiny: Model, with_stop_ids: WithStopIds) -> Generation:
    return LanguageModel(with_stop_ids(tiny, ())).generate(PROMPT, max_new_tokens=24, decode="plain")


@pytest.fixture(scope="module")
def special_at(tiny: Model, whole: Generation) -> int:
    """The first place of a token that did not stand before it, nor in the prompt, with text in front."""
    prompt_ids = tiny.tokenizer.encode(PROMPT)
    return next(
        place
        for place, token_id in enumerate(whole.token_ids)
        if place >= 4 and token_id not in whole.token_ids[:place] and token_id not in prompt_ids
    )


@pytest.fixture(scope="module")
def model(tiny: Model, whole: Generation, special_at: int, with_stop_ids: WithStopIds) -> LanguageModel:
    """A model to whose tokenizer one of the tokens that it writes is special."""
    changed = copy.copy(with_stop_ids(tiny, ()))
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer.backend.to_str())
    name = backend.id_to_token(whole.token_ids[special_at])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    changed.tokenizer = Tokenizer(backend)
    return LanguageModel(changed)


@pytest.fixture(scope="module")
def name(model: LanguageModel, whole: Generation, special_at: int) -> str:
    return model.runtime.tokenizer.piece(whole.token_ids[special_at]) or ""


METHODS = ["auto", "plain", "ngram", "suffix,recycle", "lookahead", "jacobi"]


@pytest.mark.parametrize("decode", METHODS)
def test_a_stop_string_that_is_a_special_token_ends_the_text(
    model: LanguageModel, whole: Generation, special_at: int, name: str, decode: str
) -> None:
    found = model.generate(PROMPT, max_new_tokens=24, decode=decode, stop=name)
    assert (found.finish_reason, found.token_ids) == ("stop", whole.token_ids[: special_at + 1])
    assert found.text == model.generate(PROMPT, max_new_tokens=special_at, decode="plain").text


@pytest.mark.parametrize("decode", METHODS)
def test_a_stop_string_that_holds_a_special_token_ends_the_text_before_it(
    model: LanguageModel, whole: Generation, special_at: int, name: str, decode: str
) -> None:
    tokenizer = model.runtime.tokenizer
    before = tokenizer.decode(whole.token_ids[:special_at])
    after = tokenizer.decode(whole.token_ids[special_at + 1 : special_at + 2])
    assert before
    found = model.generate(PROMPT, max_new_tokens=24, decode=decode, stop=before[-1] + name + after[:1])
    assert (found.finish_reason, found.text) == ("stop", before[:-1])


def test_in_a_batch_and_in_a_chat_it_ends_the_text_too(model: LanguageModel, special_at: int, name: str) -> None:
    alone = model.generate(PROMPT, max_new_tokens=24, decode="plain", stop=name)
    together = model.generate([PROMPT, PROMPT], max_new_tokens=24, decode="plain", stop=[name])
    pieces = model.chat().stream(PROMPT, max_new_tokens=24, decode="plain", stop=[name], sampling="greedy")
    for found in (*together, Generation.join(list(pieces))):
        assert (found.text, found.finish_reason, len(found.token_ids)) == (alone.text, "stop", special_at + 1)


def test_a_special_token_that_is_not_asked_for_ends_nothing_and_shows_nothing(
    model: LanguageModel, whole: Generation, special_at: int
) -> None:
    found = model.generate(PROMPT, max_new_tokens=24, decode="plain", stop="never in it")
    assert found.token_ids == whole.token_ids
    assert found.text == model.runtime.tokenizer.decode(whole.token_ids)
