"""The text stream: what it shows piece by piece is what decoding everything at once would give."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from skipstone.errors import ConfigError
from skipstone.runtime.text import TextStream, Tokenizer

REPLACEMENT = "\ufffd"
END = "<|end|>"
ADDED = ["<think>", "＜tool call＞", "é"]  # outside, and partly outside, the letters of byte-level BPE
WORDS = ["▁the", "▁fox", "▁", "es", ".", "'s", "##ing", "é€", "dog</w>", "</w>"]


def byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the fox and the dog", "naïve über €€ 🦊🦊 снег 雪"] * 3, trainer)
    backend.add_tokens(ADDED)
    return Tokenizer(backend)


def pieces(decoder: decoders.Decoder | None) -> Tokenizer:
    """A vocabulary of words behind 256 byte tokens: id 0x41 is `<0x41>`, then WORDS, then one special token."""
    names = [f"<0x{value:02X}>" for value in range(256)] + WORDS + [END]
    backend = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="."))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens([END])
    return Tokenizer(backend)


def llama() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return pieces(decoders.Sequence(steps))


BYTE_LEVEL = byte_level()
LLAMA = llama()
WORD_IDS = range(256, 256 + len(WORDS))
TOKENIZERS = {
    "byte level": BYTE_LEVEL,
    "llama": LLAMA,
    "metaspace": pieces(decoders.Metaspace()),
    "metaspace with bytes": pieces(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
    "wordpiece": pieces(decoders.WordPiece()),
    "bpe with suffix": pieces(decoders.BPEDecoder(suffix="</w>")),
    "no decoder": pieces(None),
}

character = st.characters(exclude_categories=["Cs"])
words = st.sampled_from(WORD_IDS)
broken_run = st.sampled_from([b"\xff", b"\xe2\x82", b"\x80\x41", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc3\xc3\xa9"])
units = st.one_of(
    words.map(lambda word: [word]),
    st.just([256 + len(WORDS)]),
    st.text(character, min_size=1, max_size=3).map(lambda text: list(text.encode())),
    st.tuples(words, broken_run, words).map(lambda unit: [unit[0], *unit[1], unit[2]]),
)
# runs of byte tokens that are whole, or broken from their first character on
decodable_ids = st.lists(units, max_size=8).map(lambda parts: [token_id for part in parts for token_id in part])
any_ids = st.lists(st.integers(0, 256 + len(WORDS) + 9) | st.sampled_from([0x20, 0x41, *"€🦊".encode()]), max_size=20)


def stream(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    text_stream = TextStream(tokenizer)
    return "".join(text_stream.push(token_id) for token_id in ids) + text_stream.flush()


def llama_text(ids: Sequence[int]) -> str:
    """The obvious way, with all ids at hand: a run of byte tokens is whole up to its break, then U+FFFD per byte."""
    text = ""
    known = [token_id for token_id in ids if token_id < 256 + len(WORDS)]
    for is_byte, run in groupby(known, key=lambda token_id: token_id < 256):
        if not is_byte:
            text += "".join(WORDS[token_id - 256] for token_id in run).replace("▁", " ")
            continue
        data = bytes(run)
        try:
            text += data.decode()
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + REPLACEMENT * (len(data) - error.start)
    return text.removeprefix(" ")


@given(st.lists(st.integers(0, BYTE_LEVEL.vocab_size + 5), max_size=30))
def test_byte_level_streaming_equals_decoding_for_any_ids(ids: list[int]) -> None:
    assert stream(BYTE_LEVEL, ids) == BYTE_LEVEL.decode(ids)


def test_an_added_token_outside_the_byte_letters_is_shown_as_it_is_written() -> None:
    ids = BYTE_LEVEL.encode("the <think>＜tool call＞ fox")
    assert stream(BYTE_LEVEL, ids) == BYTE_LEVEL.decode(ids) == "the <think>＜tool call＞ fox"


@given(st.binary(max_size=12) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_byte_level_streaming_equals_decoding_for_any_bytes(data: bytes) -> None:
    id_of = {BYTE_LEVEL.piece(token_id): token_id for token_id in range(BYTE_LEVEL.vocab_size)}
    latin = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [ord(letter) for letter in latin if ord(letter) < 256]
    order = printable + [value for value in range(256) if value not in printable]
    ids = [id_of[latin[order.index(value)]] for value in data]
    assert stream(BYTE_LEVEL, ids) == BYTE_LEVEL.decode(ids) == data.decode(errors="replace")


@pytest.mark.parametrize("name", TOKENIZERS)
@given(ids=decodable_ids)
def test_streaming_equals_decoding_for_every_kind_of_decoder(name: str, ids: list[int]) -> None:
    assert stream(TOKENIZERS[name], ids) == TOKENIZERS[name].decode(ids)


@given(any_ids)
def test_with_byte_tokens_what_was_whole_before_a_break_stays(ids: list[int]) -> None:
    assert stream(LLAMA, ids) == llama_text(ids)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA], ids=["byte level", "llama"])
@given(ids=any_ids)
def test_never_more_than_three_bytes_are_held_back(tokenizer: Tokenizer, ids: list[int]) -> None:
    text_stream = TextStream(tokenizer)
    shown = ""
    for end, token_id in enumerate(ids, start=1):
        shown += text_stream.push(token_id)
        whole = stream(tokenizer, ids[:end])
        assert whole.startswith(shown)
        assert len(whole) - len(shown) <= 3


def test_endless_broken_bytes_keep_coming_out() -> None:
    text_stream = TextStream(LLAMA)
    assert [text_stream.push(0x80) for _ in range(100)] == [REPLACEMENT] * 100


# without "é": the decoder reads that added token as the single byte that "é" stands for
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="é<"), max_size=20))
def test_no_half_character_is_ever_shown(text: str) -> None:
    text_stream = TextStream(BYTE_LEVEL)
    shown = [text_stream.push(token_id) for token_id in BYTE_LEVEL.encode(text)]
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in shown)
    assert text_stream.flush() == ""


def test_a_character_of_several_tokens_comes_out_whole_with_its_last_one() -> None:
    text_stream = TextStream(LLAMA)
    assert [text_stream.push(value) for value in "🦊".encode()] == ["", "", "", "🦊"]


def test_a_character_that_never_becomes_whole_is_replaced_at_the_end() -> None:
    text_stream = TextStream(LLAMA)
    assert [text_stream.push(value) for value in b"\xf0\x9f"] == ["", ""]
    assert text_stream.flush() == REPLACEMENT * 2
    assert text_stream.flush() == ""


def test_a_word_after_a_broken_character_shows_both_at_once() -> None:
    text_stream = TextStream(LLAMA)
    text_stream.push(0xE2)
    assert text_stream.push(257) == f"{REPLACEMENT} fox"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_push_decodes_no_more_than_two_tokens(name: str) -> None:
    lengths = []

    class Counting(Tokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            lengths.append(len(ids))
            return super().decode(ids)

    stream(Counting(TOKENIZERS[name].backend), [*WORD_IDS, *"🦊".encode(), 0xFF] * 20)
    assert max(lengths, default=0) <= 2


def test_byte_level_mixed_with_other_steps_is_refused() -> None:
    mixed = pieces(decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]))
    with pytest.raises(ConfigError, match=r"ByteLevel \+ Strip"):
        TextStream(mixed)


def test_a_text_that_goes_on_behind_a_prompt_keeps_the_space_before_its_first_word() -> None:
    spaced = next(token_id for token_id in WORD_IDS if WORDS[token_id - 256].startswith("▁"))
    word = WORDS[spaced - 256].removeprefix("▁")
    assert TextStream(LLAMA).push(spaced) == word
    assert TextStream(LLAMA, after=spaced).push(spaced) == f" {word}"
