"""Same prompt, same text, always: alone, again, in a batch, beside others, behind others, in threads, by any method."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint

from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import ANY_ROWS, Draft, Model
from skipstone.runtime.engine.rounding import MAX_EXACT_PRICE, Rounding, RowRule, RowRules

BORDER = 40
# Of 3 to 90 tokens: some end before the border, some cross it, some begin behind it.
WORDS = [
    "def add(first, second):\n",
    "    return first + second\n",
    "class Sequence:\n",
    "The quick brown fox ",
    "€ 猫 ",
]
PROMPTS = [" ".join(WORDS[number % 5 :] * (1 + number // 7)) + str(number) for number in range(20)]
METHODS = ("plain", "auto", "ngram", "suffix,recycle", "self")
ATTENTION = Rounding(rules=ANY_ROWS, price=0.0, attention_price=2 * MAX_EXACT_PRICE / BORDER)
PAIRS = Rounding(rules=RowRules(RowRule(2, 2), RowRule(2, 2)), price=0.01)
UNKNOWN = Rounding(rules=None, price=0.0)
OPTIONS: dict[str, Any] = {"max_new_tokens": 30, "logprobs": 2, "logit_bias": {2: -100.0}, "seed": 5}

Text = tuple[Any, Any]


@pytest.fixture(scope="module", params=["int4", "int8"])
def bundle(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    return make_bundle(make_checkpoint("llama", vocab_size=300), precision=request.param, exits="auto")


def opened(bundle: Path, rounding: Rounding = ATTENTION) -> LanguageModel:
    """Return a model that takes its rows by a rounding, whatever is measured."""
    model = Model.open(bundle)
    model.shared.get("rounding", lambda: rounding)
    return LanguageModel(model)


def bits(made: Any) -> Text:
    """Return the tokens of a text and the probabilities that each had, to the last bit."""
    return made.token_ids, made.logprobs


def texts(model: LanguageModel, **options: Any) -> Iterator[Text]:
    for prompt in PROMPTS:
        yield bits(model.generate(prompt, **OPTIONS | options))


def interleaved(model: LanguageModel, prompts: list[str]) -> list[Text]:
    """Return the texts of streams that take turns, piece by piece."""
    streams = [model.stream(prompt, **OPTIONS) for prompt in prompts]
    rounds = list(zip_longest(*streams))
    of_streams = [[pieces[number] for pieces in rounds if pieces[number]] for number in range(len(prompts))]
    return [
        (tuple(t for piece in made for t in piece.token_ids), tuple(p for piece in made for p in piece.logprobs))
        for made in of_streams
    ]


@pytest.fixture(scope="module")
def plain(bundle: Path) -> list[Text]:
    """The texts, each made by a model that has made no other."""
    return [bits(opened(bundle).generate(prompt, decode="plain", **OPTIONS)) for prompt in PROMPTS]


@pytest.mark.parametrize("decode", METHODS)
def test_each_method_gives_the_text_twice(bundle: Path, plain: list[Text], decode: str) -> None:
    model = opened(bundle)
    assert [*texts(model, decode=decode)] == plain
    assert [*reversed(list(texts(model, decode=decode)))] == plain[::-1], "what it learned in others changes none"


def test_beside_others_each_text_is_the_same(bundle: Path, plain: list[Text]) -> None:
    model = opened(bundle)
    for start in range(0, len(PROMPTS), 5):
        five = PROMPTS[start : start + 5]
        assert [bits(made) for made in model.generate(five, **OPTIONS)] == plain[start : start + 5], "of a batch"
        assert interleaved(model, five) == plain[start : start + 5]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda prompt: bits(model.generate(prompt, **OPTIONS)), PROMPTS)) == plain


def test_samples_are_the_texts_of_their_seeds(bundle: Path) -> None:
    model, options = opened(bundle), OPTIONS | {"temperature": 0.9, "max_new_tokens": 12}
    for prompt in PROMPTS[::6]:
        alone = [bits(model.generate(prompt, **options | {"seed": 5 + number})) for number in range(3)]
        assert [bits(made) for made in model.samples(prompt, 3, **options)] == alone
        side_by_side = {made.stats.seed: bits(made) for made in model.samples(prompt, 3, first=3, **options)}
        assert [side_by_side.get(5, alone[0]), *alone[1:]] == alone
        assert sorted(map(str, side_by_side.values())) == sorted(map(str, alone))


def test_a_prompt_cache_changes_no_text(bundle: Path, plain: list[Text], tmp_path: Path) -> None:
    model = opened(bundle)
    for number in (0, 8, 19):
        file = tmp_path / str(number)
        for _ in range(2):
            assert bits(model.generate(PROMPTS[number], prompt_cache=file, **OPTIONS)) == plain[number]


@pytest.mark.parametrize("rounding", [PAIRS, UNKNOWN], ids=["rows are added", "no rule"])
def test_where_rows_round_by_others_nothing_is_drafted(bundle: Path, rounding: Rounding) -> None:
    model = opened(bundle, rounding)
    for prompt in PROMPTS[::5]:
        plain = model.generate(prompt, decode="plain", **OPTIONS)
        drafting = model.generate(prompt, decode="suffix,recycle", **OPTIONS)
        assert bits(drafting) == bits(plain)
        assert not drafting.stats.drafters and "without drafts" in (drafting.stats.same_text or "")
        free = model.generate(prompt, decode="suffix,recycle", exact=False, **OPTIONS)
        assert free.stats.drafters


def test_no_draft_reaches_over_the_border(bundle: Path) -> None:
    model = opened(bundle).runtime
    sequence = model.new_sequence(exact=None)
    sequence.append(list(range(5, 5 + BORDER - 3)))
    sequence.begin()
    assert sequence.draft_room == 3
    sequence.extend(Draft.empty())
    sequence.commit([7])
    assert sequence.draft_room == 2 and sequence.fork().draft_room == 2
    sequence.append([8, 9, 10])
    assert sequence.draft_room == 0


def test_an_int8_cache_drafts_to_the_end(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint("llama", vocab_size=300)
    for precision in ("int4", "int8"):
        model = LanguageModel(Model.open(make_bundle(checkpoint, precision=precision, cache="int8")))
        plain = list(texts(model, decode="plain"))
        for decode in METHODS[1:4]:
            assert list(texts(model, decode=decode)) == plain
        if model.runtime.rounding.is_free:
            assert model.generate(PROMPTS[-1], decode="suffix,recycle", **OPTIONS).stats.drafters


def test_numbers_that_others_left_in_a_cache_change_no_text(bundle: Path, plain: list[Text]) -> None:
    model = opened(bundle)
    for number in (1, 9, 19):
        workspace = model.runtime.spares.take(200)
        for buffer in workspace.cache:
            buffer.write(np.full(buffer.shape, np.nan, np.float32))
        model.runtime.spares.give(workspace)
        assert bits(model.generate(PROMPTS[number], context_length=200, **OPTIONS)) == plain[number]


def test_up_to_the_border_an_answer_leaves_the_rows_that_reading_it_gives(bundle: Path) -> None:
    """So a second turn is that of `model.chat` with the same messages."""
    model = opened(bundle).runtime
    talk = model.new_sequence(exact=None)
    talk.append(list(range(5, 15)))
    talk.begin()
    for _ in range(15):
        talk.commit([int(talk.extend(Draft.empty())[0].argmax())])
    talk.append([7, 8, 9])
    talk.begin()
    read = model.new_sequence(exact=None)
    read.append(talk.token_ids)
    read.begin()
    assert np.array_equal(talk.extend(Draft.empty()), read.extend(Draft.empty()))


@pytest.mark.parametrize("cut", [1, 30, 45, 59])
def test_a_prompt_has_the_same_rows_in_whatever_pieces_it_is_read(bundle: Path, cut: int) -> None:
    model, token_ids = opened(bundle).runtime, [5 + 7 * number % 200 for number in range(60)]
    pieces, whole = model.new_sequence(exact=None), model.new_sequence(exact=None)
    pieces.append(token_ids[:cut])
    pieces.begin()
    pieces.extend(Draft.empty())
    pieces.append(token_ids[cut:])
    pieces.begin()
    whole.append(token_ids)
    whole.begin()
    assert np.array_equal(pieces.extend(Draft.empty()), whole.extend(Draft.empty()))
