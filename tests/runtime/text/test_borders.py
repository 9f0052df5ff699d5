"""Borders of prompts: covers are what enumeration finds, for every kind of vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import made, trained
from tokenizers import decoders, models, pre_tokenizers, trainers

from skipstone.errors import ConfigError
from skipstone.runtime.text import Border, Borders, Spelling, TextBuilder, Tokenizer
from skipstone.runtime.text.token_index import TokenIndex

CORPUS = [
    "the quick brown fox jumps over the lazy dog, the fox, the dog and the bird",
    "import important importance impossible imp  two  spaces   three    four aaa aaaa aaaaa",
    "über naïve €5\n\nand more\n    indented\n    indented\n\n\n雪 雪山 雪人 é è ê",
] * 4
END = "<|end|>"


def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


MAKERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "sentencepiece bpe": lambda: made(trained("bpe")),
    "sentencepiece bpe without bytes": lambda: made(trained("bpe", byte_fallback=False)),
    "sentencepiece unigram": lambda: made(trained("unigram")),
}
TOKENIZERS = {name: Tokenizer(make()) for name, make in MAKERS.items()}
BORDERS = {name: Borders(tokenizer, size=tokenizer.vocab_size) for name, tokenizer in TOKENIZERS.items()}
kinds = st.sampled_from(list(TOKENIZERS))
texts = st.text(alphabet="impor tance thfoxaé雪\n", min_size=1, max_size=30)


def covers(border: Border) -> Iterator[tuple[tuple[int, ...], int]]:
    return (
        (left, int(right))
        for left, rights in border.rights.items()
        for right in rights
        if border.is_cover(left, int(right))
    )


@given(kinds, st.binary(min_size=1, max_size=3))
@example("byte level", b"\xff")
@example("byte level", b" i")
def test_the_index_finds_what_a_walk_over_the_vocabulary_finds(kind: str, data: bytes) -> None:
    spelling = Spelling(TOKENIZERS[kind])
    index = TokenIndex(spelling, size=TOKENIZERS[kind].vocab_size)
    walked = {number for number in range(TOKENIZERS[kind].vocab_size) if spelling.of(number).startswith(data)}
    assert set(index.starting_with(data).tolist()) == walked


@settings(max_examples=60, deadline=None)
@given(kinds, texts)
@example("byte level", "x impor")
@example("byte level", "the\n\n")
@example("byte level", "雪")
@example("sentencepiece bpe", "th")
@example("sentencepiece bpe", "the ")
@example("sentencepiece unigram", "the quic")
def test_a_cover_is_how_the_tokenizer_cuts_a_text_that_begins_with_the_prompt(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer.encode(text, add_special_tokens=False)
    border = BORDERS[kind].find(prompt)
    if border is None:
        return
    spelling = Spelling(tokenizer)
    if not all(map(spelling.of, prompt)):
        return  # a letter that the vocabulary lacks: its token does not say which
    whole = spelling.join(prompt)
    assert tuple(prompt[border.start :]) == border.tail
    for left, right in list(covers(border))[:40]:
        spelled = spelling.join([*prompt[: border.start], *left, right])
        assert spelled.startswith(whole)
        assert len(spelling.join([*prompt[: border.start], *left])) < len(whole)
        ends = [spelled + more for more in (b"", b"a", b"\x80", b"\xa0", b"\xbf", b"\x80a", b"\xa0a", b"\x80\x80")]
        readable = [end.decode() for end in ends if end.decode("utf-8", "ignore").encode() == end]
        cut = [tokenizer.encode(shown[drop:], add_special_tokens=False) for shown in readable for drop in (0, 1)]
        length = border.start + len(left) + 1
        assert any(ids[:length] == [*prompt[: border.start], *left, right] for ids in cut)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="importance a\n", max_size=12), st.text(alphabet="importance a\n", min_size=1, max_size=8))
@example("x impor", "tance")
@example("a\n\n", "and")
def test_every_longer_text_is_cut_into_one_of_the_covers(text: str, more: str) -> None:
    tokenizer, prompt = TOKENIZERS["byte level"], TOKENIZERS["byte level"].encode("the " + text)
    border = BORDERS["byte level"].find(prompt)
    if border is None:
        return
    cut = tokenizer.encode("the " + text + more)
    if cut[: border.start] != prompt[: border.start]:
        return  # the border's word was no word of its own after all, as white space before a letter
    found = {(*left, right) for left, right in covers(border)}
    assert any(tuple(cut[border.start : border.start + len(path)]) == path for path in found)


@settings(max_examples=60, deadline=None)
@given(kinds, texts)
@example("sentencepiece bpe", "th")
@example("byte level", "雪")
def test_the_text_of_a_cover_begins_right_behind_the_prompt(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer.encode(text, add_special_tokens=False)
    border = BORDERS[kind].find(prompt)
    if border is None or tokenizer.decode(prompt) != text:
        return
    before = prompt[: border.start]
    num_letters = border.num_letters(before[-1] if before else None)
    for left, right in list(covers(border))[:20]:
        builder = TextBuilder(tokenizer, prompt=before, max_new_tokens=1, given=left, num_hidden=num_letters)
        shown, _ = builder.push([right])
        assert text + shown == tokenizer.decode([*before, *left, right])
        assert border.is_beyond(left, right) == bool(shown)


def test_a_word_is_taken_back_to_where_it_begins() -> None:
    tokenizer = TOKENIZERS["byte level"]
    border = BORDERS["byte level"].find(tokenizer.encode("the fox impor"))
    assert border is not None
    assert tokenizer.decode(border.tail) == " impor"
    spelled = {tokenizer.decode([*left, right]) for left, right in covers(border)}
    assert {" impor", " import"} <= spelled


def test_nothing_is_taken_back_behind_a_special_token_nor_does_one_cover() -> None:
    tokenizer, borders = TOKENIZERS["byte level"], BORDERS["byte level"]
    assert borders.find(tokenizer.encode("the fox" + END)) is None
    border = borders.find(tokenizer.encode("the fox <|en"))
    assert border is not None
    assert all(right not in tokenizer.special_ids for _, right in covers(border))


def test_tokens_that_no_text_is_cut_into_stay() -> None:
    tokenizer = TOKENIZERS["byte level"]
    letters = [tokenizer.encode(letter)[0] for letter in "import"]
    assert BORDERS["byte level"].find(letters[:-1]) is None or tokenizer.encode("impor") == letters[:-1]


def test_a_long_word_is_taken_back_in_part() -> None:
    tokenizer = TOKENIZERS["byte level"]
    prompt = tokenizer.encode("q" * 60)
    border = BORDERS["byte level"].find(prompt)
    assert border is None or len(border.tail) <= 16


def test_a_border_never_lies_before_the_least_place() -> None:
    tokenizer = TOKENIZERS["byte level"]
    prompt = tokenizer.encode("impor")
    border = BORDERS["byte level"].find(prompt, least=1)
    assert border is None or border.start >= 1


def test_a_vocabulary_that_cannot_be_spelled_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(ConfigError, match="decoder is missing"):
        Borders(Tokenizer(backend), size=2)
