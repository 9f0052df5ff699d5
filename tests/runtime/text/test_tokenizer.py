"""The tokenizer: text to ids and back, and clear words for damaged files and damaged text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.text import Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "the fox, the dog and the bird: über naïve €"]
END = "<|endoftext|>"
# No special token: that is no text. Hypothesis finds its name in this file.
full_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<" not in text)


def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return backend


def metaspace() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({"▁the": 0, "▁fox": 1, "es": 2, "<s>": 3, "?": 4}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>"])
    return backend


BYTE_LEVEL = Tokenizer(byte_level())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_loaded_tokenizer_gives_the_ids_of_the_saved_one(folder: Path) -> None:
    assert Tokenizer.load(folder).encode(CORPUS[1]) == byte_level().encode(CORPUS[1]).ids


@given(full_text)
def test_decoding_gives_the_encoded_text_back(text: str) -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text


def test_special_tokens_are_added_unless_told_otherwise() -> None:
    assert BYTE_LEVEL.encode("fox")[0] == 0
    assert BYTE_LEVEL.encode("fox")[1:] == BYTE_LEVEL.encode("fox", add_special_tokens=False)


def test_special_tokens_are_skipped_unless_told_otherwise() -> None:
    ids = BYTE_LEVEL.encode("fox")
    assert BYTE_LEVEL.decode(ids) == "fox"
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == f"{END}fox"


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode(CORPUS[0]) == BYTE_LEVEL.encode(CORPUS[0])


def test_the_vocabulary_counts_added_tokens() -> None:
    backend = byte_level()
    before = backend.get_vocab_size()
    backend.add_tokens(["<think>"])
    assert Tokenizer(backend).vocab_size == before + 1


def test_special_ids_are_the_special_tokens_and_not_the_merely_added_ones() -> None:
    backend = byte_level()
    backend.add_tokens(["<think>"])
    assert Tokenizer(backend).special_ids == {0}


def test_a_token_is_shown_as_its_text() -> None:
    shown = [BYTE_LEVEL.token(token_id) for token_id in BYTE_LEVEL.encode("the fox")]
    assert shown[0] == END
    assert "".join(shown[1:]) == "the fox"


def test_a_token_keeps_the_space_that_a_decoder_drops_at_the_start_of_a_text() -> None:
    tokenizer = Tokenizer(metaspace())
    assert tokenizer.decode([1]) == "fox"
    assert [tokenizer.token(token_id) for token_id in range(4)] == [" the", " fox", "es", "<s>"]


def test_a_token_that_is_part_of_a_character_is_shown_as_the_replacement_character() -> None:
    first_of_snowman = BYTE_LEVEL.encode("☃", add_special_tokens=False)[0]
    assert BYTE_LEVEL.token(first_of_snowman) == "\ufffd"


def test_a_token_is_shown_alone_even_when_it_would_complete_a_character_behind_itself() -> None:
    backend = byte_level()
    backend.add_tokens(["¬â"])  # the bytes AC E2
    tokenizer = Tokenizer(backend)
    assert tokenizer.token(tokenizer.vocab_size - 1) == "\ufffd\ufffd"


def test_an_id_of_the_padded_part_of_the_logits_has_no_text() -> None:
    assert BYTE_LEVEL.token(BYTE_LEVEL.vocab_size + 7) == ""
    assert BYTE_LEVEL.decode([BYTE_LEVEL.vocab_size + 7]) == ""


def test_half_a_surrogate_pair_is_refused_with_its_position() -> None:
    with pytest.raises(ConfigError, match=r"U\+D83D, at position 3"):
        BYTE_LEVEL.encode("fox\ud83d")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no tokenizer\.json; copy it"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1.0"}', b"\xff\xfe"])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is damaged") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_decoder_steps_are_read_from_the_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert Tokenizer.load(folder).decoder_steps == ("ByteLevel",)
    content["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.load(folder).decoder_steps == ("ByteFallback", "Fuse")
    content["decoder"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.load(folder).decoder_steps == ()
