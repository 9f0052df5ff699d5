"""Every kind of tokenizer: the text that comes piece by piece is the whole text, and stop strings cut it anywhere."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_tokenizers import byte_level_files, made, trained
from tokenizers import AddedToken

from skipstone.exporters.checkpoints.tokenizer import GPT2_SPLIT, QWEN2_SPLIT, byte_level_bpe, with_special_tokens
from skipstone.runtime.text import StopStrings, TextStream, Tokenizer
from skipstone.runtime.text.text_stream import BYTE_TOKEN

REPLACEMENT = "\ufffd"
MARK = "‖"  # an added token that is in no text: it ends a run of byte tokens, and shows itself
ADDED = [
    AddedToken("<|turn|>", special=True),
    AddedToken("<think>", special=False, normalized=False),
    AddedToken("▁tool call▁", special=False, normalized=False),
    AddedToken(MARK, special=False, normalized=False),
]
NAMES = ("<s>", "</s>", "<unk>", "<|endoftext|>", *(token.content for token in ADDED))


def byte_level(split: str, *, nfc: bool = False) -> tokenizers.Tokenizer:
    vocab, merges = byte_level_files()
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in merges.split("\n")[1:-1])]
    return byte_level_bpe(json.loads(vocab), pairs, splits=(split,), nfc=nfc)


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer, and what it does to any text."""

    make: Callable[[], tokenizers.Tokenizer]
    normal: Callable[[str], str]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(with_special_tokens(self.make(), ADDED))


def spaced(text: str) -> str:
    return text.replace("▁", " ")


KINDS = {
    "byte level": Kind(lambda: byte_level(GPT2_SPLIT), str),
    "byte level, composed": Kind(lambda: byte_level(QWEN2_SPLIT, nfc=True), lambda t: unicodedata.normalize("NFC", t)),
    "bpe": Kind(lambda: made(trained()), spaced),
    "bpe without prefix": Kind(lambda: made(trained(add_dummy_prefix=False)), spaced),
    "unigram": Kind(lambda: made(trained("unigram")), spaced),
    "bpe without bytes": Kind(lambda: made(trained(byte_fallback=False)), spaced),
    "unigram without bytes": Kind(lambda: made(trained("unigram", byte_fallback=False)), spaced),
}
EVERY_TEXT = [name for name in KINDS if "without bytes" not in name]
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
every_text_kind = pytest.mark.parametrize("kind", [KINDS[name] for name in EVERY_TEXT], ids=EVERY_TEXT)

CLUSTERS = ["e\u0301", "x\u0323\u0307", "🦊", "👩\u200d🚒", "🏳\ufe0f\u200d🌈", "🇨🇭", "ที่", "हिन्दी"]
units = st.sampled_from([*"abothe \n\t▁é.,", "  ", " the", " fox", *CLUSTERS])
texts = st.one_of(
    st.lists(units, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
).filter(lambda text: not any(name in text for name in NAMES))
# Any number stands for a token: the vocabulary, and a few ids behind it that have no text.
numbers = st.lists(st.integers(0, 10**6), max_size=25)
runs = st.lists(
    st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0\x9f\xa6", b"\x8a", b"\xff", b"A", b" ", b"\xc3\xa9"])
)


def pushes(tokenizer: Tokenizer, ids: Sequence[int], *, after: int | None = None) -> Iterator[str]:
    text_stream = TextStream(tokenizer, after=after)
    for token_id in ids:
        yield text_stream.push(token_id)
    yield text_stream.flush()


def streamed(tokenizer: Tokenizer, ids: Sequence[int], *, after: int | None = None) -> str:
    return "".join(pushes(tokenizer, ids, after=after))


def stopped(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]) -> str:
    stops = StopStrings(stop)
    return "".join(stops.push(piece)[0] for piece in pushes(tokenizer, ids)) + stops.flush()


def byte_of(tokenizer: Tokenizer, token_id: int) -> int | None:
    match = BYTE_TOKEN.fullmatch(tokenizer.piece(token_id) or "")
    return int(match[1], base=16) if match and "ByteFallback" in tokenizer.decoder_steps else None


def whole_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What decoding everything at once gives, except that a run of byte tokens keeps what is whole before its break.

    The mark is put where a run breaks, so that the decoder sees two runs.
    """
    mark = mark_id(tokenizer)
    known = [i for i in ids if tokenizer.piece(i) is not None and i not in tokenizer.special_ids and i != mark]
    marked: list[int] = []
    for is_byte, run in groupby(known, key=lambda token_id: byte_of(tokenizer, token_id) is not None):
        tokens = list(run)
        whole = whole_bytes(bytes(byte_of(tokenizer, token_id) or 0 for token_id in tokens)) if is_byte else len(tokens)
        marked += [*tokens[:whole], mark, *tokens[whole:]] if 0 < whole < len(tokens) else tokens
    return tokenizer.decode(marked).replace(MARK, "")


def mark_id(tokenizer: Tokenizer) -> int:
    (mark,) = (token_id for token_id in range(tokenizer.vocab_size) if tokenizer.piece(token_id) == MARK)
    return mark


def whole_bytes(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def ids_from(tokenizer: Tokenizer, numbers: Sequence[int], run: Sequence[bytes]) -> list[int]:
    """Tokens by number, and a run of bytes among them, as the kind writes bytes."""
    id_of = {byte_of(tokenizer, token_id): token_id for token_id in range(tokenizer.vocab_size)}
    data = b"".join(run)
    ids = [number % (tokenizer.vocab_size + 3) for number in numbers]
    mark = mark_id(tokenizer)
    middle = [id_of[value] for value in data] if 0 in id_of else []
    return [token_id for token_id in (*ids[: len(ids) // 2], *middle, *ids[len(ids) // 2 :]) if token_id != mark]


@every_kind
@given(numbers=numbers, run=runs)
def test_the_pieces_of_any_tokens_are_the_whole_text(kind: Kind, numbers: list[int], run: list[bytes]) -> None:
    ids = ids_from(kind.tokenizer, numbers, run)
    assert streamed(kind.tokenizer, ids) == whole_text(kind.tokenizer, ids)


@every_kind
@given(numbers=numbers, run=runs)
def test_what_was_shown_stays_whatever_comes_next(kind: Kind, numbers: list[int], run: list[bytes]) -> None:
    ids = ids_from(kind.tokenizer, numbers, run)
    *pieces, _ = pushes(kind.tokenizer, ids)
    for end in range(len(ids)):
        assert streamed(kind.tokenizer, ids[:end]).startswith("".join(pieces[:end]))
    assert streamed(kind.tokenizer, ids).startswith("".join(pieces))


@every_text_kind
@given(text=texts)
def test_a_text_comes_back_without_half_characters(kind: Kind, text: str) -> None:
    pieces = list(pushes(kind.tokenizer, kind.tokenizer.encode(text, add_special_tokens=False)))
    assert "".join(pieces) == kind.normal(text)
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)
    assert pieces[-1] == ""


@every_kind
@given(parts=st.lists(st.sampled_from(["the", " fox ", "<think>", "<|turn|>", "▁tool call▁", "dog"]), max_size=8))
def test_added_tokens_are_shown_and_special_ones_are_not(kind: Kind, parts: list[str]) -> None:
    ids = kind.tokenizer.encode("".join(parts), add_special_tokens=False)
    text = streamed(kind.tokenizer, ids)
    assert text == kind.tokenizer.decode(ids)
    assert text.count("<think>") == parts.count("<think>")
    assert "<|turn|>" not in text


@every_kind
@given(text=texts, data=st.data())
def test_a_stop_string_is_found_wherever_it_is_cut_into_tokens(kind: Kind, text: str, data: st.DataObject) -> None:
    ids = kind.tokenizer.encode(text, add_special_tokens=False)
    whole = kind.tokenizer.decode(ids)
    start = data.draw(st.integers(0, len(whole)))
    stop = whole[start : data.draw(st.integers(start, len(whole)))] or MARK
    assert stopped(kind.tokenizer, ids, [stop, MARK]) == whole.partition(stop)[0]


@every_kind
@given(numbers=numbers, run=runs, data=st.data())
def test_a_stop_string_is_found_among_any_tokens(
    kind: Kind, numbers: list[int], run: list[bytes], data: st.DataObject
) -> None:
    ids = ids_from(kind.tokenizer, numbers, run)
    whole = streamed(kind.tokenizer, ids)
    start = data.draw(st.integers(0, len(whole)))
    stop = whole[start : start + 4] or MARK
    assert stopped(kind.tokenizer, ids, [stop]) == whole.partition(stop)[0]


@every_kind
@given(text=texts, data=st.data())
def test_a_text_that_goes_on_keeps_its_spaces(kind: Kind, text: str, data: st.DataObject) -> None:
    ids = kind.tokenizer.encode(f"the{text}", add_special_tokens=False)
    cut = data.draw(st.integers(1, len(ids)))
    *_, half_character = pushes(kind.tokenizer, ids[:cut])
    assume(not half_character and ids[cut - 1] not in kind.tokenizer.special_ids)
    rest = streamed(kind.tokenizer, ids[cut:], after=ids[cut - 1])
    assert kind.tokenizer.decode(ids[:cut]) + rest == kind.tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_behind_a_special_token_a_text_starts_anew(name: str) -> None:
    tokenizer = KINDS[name].tokenizer
    turn, *fox = tokenizer.encode("<|turn|> fox", add_special_tokens=False)
    assert streamed(tokenizer, fox, after=turn) == streamed(tokenizer, fox) == "fox"
