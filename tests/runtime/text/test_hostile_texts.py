"""Texts and vocabularies that end the tokenizers library: each is an error of one line, and soon."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from test_plain_specials import KINDS
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

import skipstone
from skipstone.errors import BundleError, CacheFull, TextError
from skipstone.runtime.engine import Model
from skipstone.runtime.text import Tokenizer
from skipstone.runtime.text.tokenizer import LONG_TEXT

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split_by(pattern: str) -> Tokenizer:
    backend = KINDS["byte-level bpe"]()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    return Tokenizer(backend)


def test_a_pattern_that_never_ends_is_an_error_of_one_line() -> None:
    with pytest.raises(TextError, match=r"^a text of 41 characters cannot be cut into tokens: .+$"):
        split_by(r"(a+)+$").encode("a" * 40 + "!")


def test_millions_of_spaces_are_an_error_or_are_cut_and_never_end_the_process() -> None:
    tokenizer = split_by(QWEN)
    try:
        assert tokenizer.encode(" " * 12_000_000)
    except TextError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_have_the_tokens_of_the_library(kind: str) -> None:
    backend = KINDS[kind]()
    text = "the quick brown fox, \n\n  über naïve 0x41 " * (LONG_TEXT // 30)
    assert Tokenizer(backend).encode(text) == backend.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKC()], ids=["as it is", "NFC", "NFKC"])
def test_no_text_has_fewer_tokens_than_its_bytes_tell(kind: str, normalizer: normalizers.Normalizer | None) -> None:
    backend = KINDS[kind]()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens([AddedToken("<|a_long_special_token|>", special=True)])
    tokenizer = Tokenizer(backend)
    for piece in ("aaaa", "  ", "u\u0308\u0304", "€", "ababab", "<|a_long_special_token|>"):
        text = piece * (LONG_TEXT // len(piece) + 1)
        assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text))
    if kind == "byte-level bpe" and normalizer is None:
        assert tokenizer.least_tokens("a" * 10**6) > 40_000


def test_a_vocabulary_that_swallows_spaces_tells_nothing() -> None:
    backend = KINDS["byte-level bpe"]()
    backend.add_tokens([AddedToken("<sep>", lstrip=True)])
    assert Tokenizer(backend).least_tokens(" " * 10**6) == 0


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_cut(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = skipstone.LanguageModel(tiny), "word " * 10**6
    start = time.thread_time()
    with pytest.raises(CacheFull, match=r"^the text has 5000000 characters, at least \d+ tokens, and the model sees"):
        model.generate(text, max_new_tokens=1)
    assert time.thread_time() - start < 1


def test_ctrl_c_is_heard_while_a_long_text_is_cut() -> None:
    tokenizer, before = split_by(QWEN), signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenizer.encode("the quick brown fox " * 400_000)
    finally:
        signal.signal(signal.SIGINT, before)  # a job in the background ignores it
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "state",
    [
        {"model": {"type": "BPE", "vocab": {"a": 2**40}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(" * 300}, "behavior": "Isolated", "invert": False}},
        {"decoder": {"type": "Unheard"}},
        [],
    ],
    ids=["an id of 41 bits", "a merge of nothing", "a pattern that is none", "a decoder that is none", "no object"],
)
def test_a_damaged_vocabulary_is_an_error_of_one_line(tmp_path: Path, state: object) -> None:
    whole = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    text = json.dumps(whole | state if isinstance(state, dict) else state)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"^.*tokenizer\.json is damaged \(.+\); copy it from the checkpoint"):
        Tokenizer.load(tmp_path)
