"""Tokens that the model has no row for: a checkpoint with some is exported, and their text is plain text everywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from conftest import MakeCheckpoint
from gguf_files import WriteGguf
from tokenizers import AddedToken, models, processors

import skipstone
from skipstone.api import export, plan
from skipstone.errors import CheckpointError, SkipstoneError
from skipstone.exporters.checkpoints.tokenizer import without_rowless
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.text import Tokenizer

IMAGE = "<image_soft_token>"


def cut(backend: tokenizers.Tokenizer, num_rows: int) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    data, left = without_rowless(backend.to_str().encode(), backend, num_rows)
    return tokenizers.Tokenizer.from_buffer(data), left


@pytest.fixture
def byte_level(tokenizer_json: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_json)


@pytest.fixture
def with_image(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of as many rows as its tokenizer has tokens, and then one token more."""

    def make(**config: object) -> Path:
        folder = Path(shutil.copytree(make_checkpoint(vocab_size=300, **config), tmp_path / str(len(config))))
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.add_special_tokens([IMAGE])
        backend.save(str(folder / "tokenizer.json"))
        return folder

    return make


def test_a_token_more_than_rows_is_left_out_and_said_once(with_image: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = with_image(num_hidden_layers=1)
    export(checkpoint, tmp_path / "out", precision="fp32")
    model, tokenizer = skipstone.load(tmp_path / "out"), Tokenizer.load(tmp_path / "out")
    (said,) = plan(checkpoint).remarks
    assert said == f"the vocabulary of 300 has no row for 1 of tokenizer.json's tokens, such as {IMAGE!r}: plain text"
    text = f"see {IMAGE} here"
    assert max(tokenizer.encode(text)) < 300 and tokenizer.decode(tokenizer.encode(text)) == text
    assert model.generate(text, max_new_tokens=4).token_ids
    with pytest.raises(SkipstoneError, match="300"):
        model.generate("a", max_new_tokens=2, logit_bias={300: 5.0})


def test_no_other_token_changes(byte_level: tokenizers.Tokenizer) -> None:
    before = byte_level.get_vocab()
    byte_level.add_tokens([AddedToken("<PRE>"), AddedToken("<EOT>", special=True)])
    found, left = cut(byte_level, 301)
    assert left == ("<EOT>",)
    assert found.get_vocab() == before | {"<PRE>": 300}
    assert found.encode("a<PRE><EOT>").tokens[1:3] == ["<PRE>", "<"]


def test_words_without_a_row_are_spelled_by_shorter_ones(byte_level: tokenizers.Tokenizer) -> None:
    long = max(byte_level.get_vocab(), key=lambda token: byte_level.get_vocab()[token])
    found, left = cut(byte_level, 290)
    assert long in left and len(left) == 10
    encoding = found.encode(f"{long} self tokens")
    assert max(encoding.ids) < 290 and found.decode(encoding.ids) == byte_level.decode(
        byte_level.encode(f"{long} self tokens").ids
    )


def test_a_unigram_vocabulary_is_cut_too() -> None:
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("ab", -0.5), ("aba", -0.1)]
    found, left = cut(tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0)), 4)
    assert left == ("aba",) and found.encode("aba").tokens == ["ab", "a"]


def test_letters_and_what_goes_around_every_text_cannot_be_spared(byte_level: tokenizers.Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"has the letter .* but the model's vocabulary is 250"):
        cut(byte_level, 250)
    byte_level.add_special_tokens(["<bos>"])
    byte_level.post_processor = processors.TemplateProcessing(single=["<bos>", "$A"], special_tokens=[("<bos>", 300)])
    with pytest.raises(CheckpointError, match="needs a token from id 300 on"):
        cut(byte_level, 300)


def test_a_tokenizer_of_another_model_is_refused(byte_level: tokenizers.Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"has 300 tokens, but the model's vocabulary is 100: they do not belong"):
        cut(byte_level, 100)


def test_a_tokenizer_with_a_row_for_each_token_stays_byte_for_byte(byte_level: tokenizers.Tokenizer) -> None:
    data = json.dumps(json.loads(byte_level.to_str()), indent=3).encode()
    assert without_rowless(data, byte_level, 300) == (data, ())


def test_a_gguf_file_may_have_a_token_more_than_rows(write_gguf: WriteGguf) -> None:
    tokens = tokenizers.Tokenizer.from_buffer(plan(write_gguf("llama")).checkpoint.texts["tokenizer.json"])
    texts = [tokens.id_to_token(index) for index in range(tokens.get_vocab_size())]
    num_rows = plan(write_gguf("llama")).architecture.dimensions.vocab_size
    texts += [f"<filler{index}>" for index in range(len(texts), num_rows)] + [IMAGE]
    kinds = [1] * (len(texts) - 1) + [3]
    path = write_gguf("llama", **{"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": kinds})
    found = plan(path)
    assert IMAGE in found.remarks[0]
    assert IMAGE.encode() not in found.checkpoint.texts["tokenizer.json"]


# Drafts


@pytest.fixture
def pair(with_image: Callable[..., Path], make_checkpoint: MakeCheckpoint, tmp_path: Path) -> tuple[Path, Path]:
    """A target that has a row for the image, and a small model that has none."""
    small = with_image(num_hidden_layers=1)
    target = Path(shutil.copytree(make_checkpoint(), tmp_path / "target"))
    shutil.copy(small / "tokenizer.json", target)
    return target, small


def test_a_small_model_without_that_row_drafts_by_tokens(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target, small = pair
    (said,) = plan(target, draft_model=small).remarks
    assert said.startswith("of the draft model: the vocabulary of 300 has no row for 1")
    export(target, tmp_path / "out", precision="fp32", draft_model=small)
    model = skipstone.load(tmp_path / "out")
    for method in ("model", "async-model", "tree", "staged"):
        plain = model.generate("def add(", max_new_tokens=12, decode="plain")
        found = model.generate("def add(", max_new_tokens=12, decode=method)
        assert found.token_ids == plain.token_ids
        assert sum(drafter.drafted for drafter in found.stats.drafters.values()) > 0


def test_a_text_with_that_token_is_drafted_for_through_text(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target, small = pair
    export(target, tmp_path / "out", precision="fp32", draft_model=small)
    model = skipstone.load(tmp_path / "out")
    prompt = f"def {IMAGE} add("
    plain = model.generate(prompt, max_new_tokens=12, decode="plain")
    assert model.generate(prompt, max_new_tokens=12, decode="model").token_ids == plain.token_ids
    assert Bundle.open(tmp_path / "out").open_draft_model() is not None
