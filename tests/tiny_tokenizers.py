"""Vocabularies of every kind, trained in a moment on made-up text."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from skipstone.exporters.checkpoints.tokenizer import Spaces, sentencepiece_bpe
from skipstone.exporters.checkpoints.tokenizer.kinds import unigram
from skipstone.exporters.checkpoints.tokenizer.sentencepiece import SentencePieceModel

END = "<|endoftext|>"
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "the fox, the dog and the bird: über naïve €5\tand more",
    "  two  spaces   three    four, aaa aaaa aaaaa ababab",
    "снег и снегири 雪 雪山 0x41",
] * 5


@cache
def trained(kind: str = "bpe", *, byte_fallback: bool = True, **options: Any) -> bytes:
    """The bytes of a tiny tokenizer.model, made on the spot; lists are given as tuples."""
    settings = {
        "vocab_size": 400 if byte_fallback else 130,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    lists = {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type=kind,
        byte_fallback=byte_fallback,
        hard_vocab_limit=False,
        minloglevel=2,
        **(settings | options | lists),
    )
    return model.getvalue()


def made(data: bytes) -> tokenizers.Tokenizer:
    model = SentencePieceModel.parse(data)
    make = {"BPE": sentencepiece_bpe, "Unigram": unigram}[model.algorithm]
    spaces = Spaces(prefix="first" if model.dummy_prefix else "never", squeeze=model.squeeze_spaces)
    return make(model.pieces, spaces=spaces, charsmap=model.charsmap)


@cache
def byte_level_files() -> tuple[str, str]:
    """The texts of vocab.json and merges.txt of a tiny byte-level vocabulary."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    return json.dumps(model["vocab"]), f"#version: 0.2\n{merges}\n"
