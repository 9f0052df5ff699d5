"""What two tokenizers share: the same tokens by what they spell, however a vocabulary writes a space or a byte."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models
from vocabularies import TEXT, byte_level, full_text, sentencepiece

from skipstone.errors import ConfigError
from skipstone.runtime.text import (
    SharedVocabulary,
    Spelling,
    Tokenizer,
    num_unfinished_bytes,
    same_tokenizer,
    whole_characters,
)

# No special token: that is no text. Hypothesis finds its name in this file.


BYTES, OTHER_BYTES = byte_level(), byte_level(290, corpus="the dog over the end of the egg")
PIECES = sentencepiece("▁the", "▁fox", "ab")


def shared(target: Tokenizer, drafter: Tokenizer, *, padding: int = 0) -> SharedVocabulary:
    return SharedVocabulary.of(
        Spelling(target),
        Spelling(drafter),
        target_size=target.vocab_size + padding,
        drafter_size=drafter.vocab_size + padding,
    )


def id_of(tokenizer: Tokenizer, piece: str) -> int:
    return next(token_id for token_id in range(tokenizer.vocab_size) if tokenizer.piece(token_id) == piece)


def pairs(target: Tokenizer, drafter: Tokenizer) -> set[tuple[str | None, str | None]]:
    found = shared(target, drafter)
    ids = zip(found.target_ids.tolist(), found.drafter_ids.tolist(), strict=True)
    return {(target.piece(theirs), drafter.piece(mine)) for theirs, mine in ids}


# The same tokenizer


def test_a_tokenizer_is_the_same_as_its_copy() -> None:
    assert same_tokenizer(BYTES, byte_level())


@pytest.mark.parametrize(
    "other",
    [byte_level(299), byte_level(special=["</s>", "<s>"]), byte_level(added=["<think>"]), PIECES],
    ids=["one token less", "other order", "an added token", "other kind"],
)
def test_a_tokenizer_with_another_id_for_a_token_is_another(other: Tokenizer) -> None:
    assert not same_tokenizer(BYTES, other)
    assert not same_tokenizer(other, BYTES)


def test_a_tokenizer_in_which_a_token_is_special_is_another() -> None:
    merely_added = byte_level(300, added=["<x>"])
    special = Tokenizer(tokenizers.Tokenizer.from_str(byte_level(300).backend.to_str()))
    special.backend.add_special_tokens(["<x>"])
    assert not same_tokenizer(merely_added, Tokenizer(special.backend))


# What tokens spell


@given(full_text)
def test_tokens_spell_the_text_they_encode(text: str) -> None:
    for tokenizer, space in ((BYTES, ""), (PIECES, " ")):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert Spelling(tokenizer).join(ids) == ((space if text else "") + text).encode()


@given(full_text)
def test_the_text_of_tokens_is_what_the_tokenizer_decodes(text: str) -> None:
    for tokenizer in (BYTES, PIECES):
        ids = [1, *tokenizer.encode(text, add_special_tokens=False)]
        assert Spelling(tokenizer).text(ids) == tokenizer.decode(ids) == text


def test_broken_characters_are_replaced_one_by_one_in_every_tokenizer() -> None:
    for tokenizer, pieces in ((BYTES, ["a", "ð", "Ł", "b"]), (PIECES, ["▁", "a", "<0xF0>", "<0x9F>", "b"])):
        assert Spelling(tokenizer).text([id_of(tokenizer, piece) for piece in pieces]) == "a\ufffdb"


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES])
def test_special_tokens_and_padding_spell_nothing(tokenizer: Tokenizer) -> None:
    spelling = Spelling(tokenizer)
    assert [spelling.of(token_id) for token_id in (*tokenizer.special_ids, tokenizer.vocab_size + 3)] == [b""] * (
        len(tokenizer.special_ids) + 1
    )


def test_a_vocabulary_that_writes_spaces_in_its_own_way_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordPiece({"the": 0, "##m": 1, "[UNK]": 2}))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match=r"decoder is WordPiece; .* use a drafter with the target's tokenizer"):
        Spelling(Tokenizer(backend))


@given(full_text, full_text)
@settings(max_examples=200)
def test_a_continuation_spells_the_text_behind_the_tokens(before: str, text: str) -> None:
    for tokenizer in (BYTES, OTHER_BYTES, PIECES):
        spelling, ids = Spelling(tokenizer), tokenizer.encode(before, add_special_tokens=False)
        found = spelling.continuation(ids, text)
        assert found == [] or spelling.join(found) == text.encode()


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES])
def test_a_continuation_is_what_stands_there_when_the_whole_text_is_encoded(tokenizer: Tokenizer) -> None:
    spelling, whole = Spelling(tokenizer), tokenizer.encode(TEXT, add_special_tokens=False)
    ends = [end for end in range(1, len(whole)) if not num_unfinished_bytes(spelling.join(whole[:end]))]
    assert len(ends) > 30
    for end in ends:
        assert spelling.continuation(whole[:end], spelling.join(whole[end:]).decode()) == whole[end:]


def test_there_is_no_continuation_where_the_tokenizer_would_join_it_with_the_last_token() -> None:
    assert PIECES.piece(id_of(PIECES, "ab")) == "ab"
    ids = PIECES.encode("xa", add_special_tokens=False)
    assert Spelling(PIECES).continuation(ids, "b") == []
    assert Spelling(PIECES).continuation(ids, "c") == [id_of(PIECES, "c")]


def test_a_continuation_never_begins_with_a_space_of_the_tokenizers_own() -> None:
    ids = PIECES.encode("the", add_special_tokens=False)
    assert [PIECES.piece(i) for i in Spelling(PIECES).continuation(ids, " fox")] == ["▁fox"]
    assert [PIECES.piece(i) for i in Spelling(PIECES).continuation(ids, "fox")] == ["f", "o", "x"]


@given(full_text, st.characters(exclude_categories=["Cs"]))
def test_unfinished_bytes_are_those_of_the_last_character_until_it_is_whole(before: str, character: str) -> None:
    data = character.encode()
    assert [num_unfinished_bytes(before.encode() + data[:end]) for end in range(len(data) + 1)] == [
        *range(len(data)),
        0,
    ]


@given(st.binary(max_size=8))
def test_nothing_is_unfinished_behind_a_whole_character(data: bytes) -> None:
    assert num_unfinished_bytes(data + b"a") == 0


@given(st.binary(max_size=8))
def test_whole_characters_are_the_longest_beginning_that_is_text(data: bytes) -> None:
    found = whole_characters(data).encode()
    assert data.startswith(found)
    longer = [
        end
        for end in range(len(found) + 1, len(data) + 1)
        if data[:end].decode("utf-8", "ignore").encode() == data[:end]
    ]
    assert longer == []


# What they share


def test_a_space_is_shared_whatever_letter_writes_it() -> None:
    assert {("Ġthe", "▁the"), ("Ġ", "▁"), ("a", "a")} <= pairs(BYTES, PIECES)
    assert {("▁the", "Ġthe"), ("▁", "Ġ")} <= pairs(PIECES, BYTES)


def test_a_byte_token_is_shared_with_the_letter_of_its_byte() -> None:
    assert {("ð", "<0xF0>"), ("Ċ", "<0x0A>")} <= pairs(BYTES, PIECES)


def test_of_a_letter_and_its_byte_token_the_letter_is_shared() -> None:
    found = pairs(BYTES, PIECES)
    assert ("A", "A") in found and ("A", "<0x41>") not in found
    assert all(piece != "<0x41>" for _, piece in pairs(PIECES, PIECES))


def test_special_and_added_tokens_are_not_shared() -> None:
    target, drafter = byte_level(added=["<think>", "dog"]), byte_level(290, added=["<think>"])
    names = {piece for pair in pairs(target, drafter) for piece in pair}
    assert not names & {"<s>", "</s>", "<think>"}


def test_shared_tokens_spell_the_same_and_no_pair_is_missing() -> None:
    for target, drafter in ((BYTES, PIECES), (PIECES, BYTES), (BYTES, OTHER_BYTES)):
        found, theirs, mine = shared(target, drafter), Spelling(target), Spelling(drafter)
        for target_id, drafter_id in zip(found.target_ids.tolist(), found.drafter_ids.tolist(), strict=True):
            assert theirs.of(target_id) == mine.of(drafter_id) != b""
            assert found.drafter_id[target_id] == drafter_id and found.target_id[drafter_id] == target_id
        both = {theirs.of(i) for i in range(target.vocab_size)} & {mine.of(i) for i in range(drafter.vocab_size)}
        assert {theirs.of(int(target_id)) for target_id in found.target_ids} == both - {b""}
        assert len(found) == len(set(found.target_ids.tolist())) == len(set(found.drafter_ids.tolist()))


def test_tokens_behind_the_rows_of_a_model_are_not_shared() -> None:
    cut = SharedVocabulary.of(Spelling(BYTES), Spelling(BYTES), target_size=280, drafter_size=270)
    assert len(cut) and cut.target_ids.max() < 270


def test_vocabularies_without_a_common_token_share_nothing() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"▁猫猫": 0}, unk_token="▁猫猫"))
    backend.decoder = decoders.Metaspace()
    found = shared(BYTES, Tokenizer(backend))
    assert len(found) == 0
    assert found.share(np.ones(1, np.float32)) == 0.0


def test_a_row_of_the_drafter_is_moved_to_the_target_and_minus_infinity_elsewhere() -> None:
    found = shared(BYTES, PIECES, padding=5)
    logits = np.random.default_rng(0).normal(size=PIECES.vocab_size + 5).astype(np.float32)
    row = found.to_target(logits)
    assert row.shape == (BYTES.vocab_size + 5,) and row.dtype == np.float32
    for target_id, value in enumerate(row.tolist()):
        drafter_id = found.drafter_id.get(target_id)
        assert value == (-np.inf if drafter_id is None else logits[drafter_id])


def test_the_share_is_the_drafters_probability_of_shared_tokens() -> None:
    found = shared(BYTES, PIECES)
    weights = np.random.default_rng(1).random(PIECES.vocab_size).astype(np.float32)
    wanted = sum(weight for i, weight in enumerate(weights.tolist()) if i in found.target_id) / float(weights.sum())
    assert found.share(weights) == pytest.approx(wanted, rel=1e-5)
    assert found.share(weights * 7) == pytest.approx(wanted, rel=1e-5)
    assert 0 < wanted < 1
