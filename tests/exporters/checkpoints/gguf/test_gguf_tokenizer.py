"""The tokenizer of a GGUF file gives the ids of the tokenizer that it was made from."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from gguf import TokenType
from gguf_files import WriteGguf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import Checkpoint
from skipstone.exporters.checkpoints.gguf import open_gguf
from skipstone.runtime.text import ChatTemplate


def tokenizer_of(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])


@settings(deadline=None)  # the first text waits for the file
@given(text=st.text())
def test_a_byte_level_tokenizer_gives_the_ids_of_the_checkpoints(
    text: str, write_gguf: WriteGguf, tokenizer_json: str
) -> None:
    assume("<" not in text)
    original = tokenizers.Tokenizer.from_str(tokenizer_json)
    assert tokenizer_of(opened(write_gguf, "llama")).encode(text).ids == original.encode(text).ids


@functools.cache
def opened(write_gguf: WriteGguf, name: str) -> Checkpoint:
    return open_gguf(write_gguf(name))


def test_special_tokens_keep_their_ids_and_are_found_in_a_text(write_gguf: WriteGguf, tokenizer_json: str) -> None:
    tokenizer, original = tokenizer_of(opened(write_gguf, "llama")), tokenizers.Tokenizer.from_str(tokenizer_json)
    assert tokenizer.get_vocab() == original.get_vocab()
    text = "a<s>b</s> [PAD305]"
    assert tokenizer.encode(text).ids == original.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text).ids) == "ab [PAD305]"


def test_first_and_last_tokens_go_around_a_text_where_the_file_says_so(write_gguf: WriteGguf) -> None:
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    ids = tokenizer_of(open_gguf(write_gguf("llama", **both))).encode("x").ids
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 3)


def test_the_ends_of_turns_are_stop_tokens_too(write_gguf: WriteGguf) -> None:
    ids = {f"tokenizer.ggml.{role}_token_id": number for role, number in {"eot": 9, "eom": 2, "padding": 0}.items()}
    checkpoint = open_gguf(write_gguf("llama", **ids))
    wanted = {"bos_token_id": 1, "eos_token_id": [2, 9], "pad_token_id": 0}
    assert checkpoint.generation_config == json.loads(checkpoint.texts["generation_config.json"]) == wanted


def test_a_chat_template_comes_with_the_tokens_that_it_writes(write_gguf: WriteGguf, tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    checkpoint = open_gguf(write_gguf("llama", **{"tokenizer.chat_template": template}))
    for name, content in checkpoint.texts.items():
        (tmp_path / name).write_bytes(content)
    chat = ChatTemplate.load(tmp_path)
    assert chat is not None
    assert chat.render([{"role": "user", "content": "hi"}]) == "<s>hi</s>"


WORDS = {
    "gpt-2": "It|'s| 12345| a|./| DON|'|T|\n|\n|X",
    "default": "It|'|s| |123|45| a|./| DON|'|T|\n|\n|X",
    "qwen35": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "seed-coder": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "minicpm5": "It|'s| |123|45| a|./| DON|'T|\n\n|X",
    "deepseek-coder": "It|'|s| |1|2|3|4|5| a|./| DON|'|T|\n|\n|X",
    "deepseek-llm": "It|'|s| |12345| a|./| DON|'|T|\n|\n|X",
    "deepseek-v3": "It|'s| |123|45| a|./| DON|'T|\n\n|X",
    "command-r": "It|'s| |1|2|3|4|5| a|./| DON|'|T|\n|\n|X",
    "jais-2": "It|'s| |123|45| a|./| DON|'T|\n\n|X",
    "viking": "It's| |1|2|3|4|5| a|.|/| DON'T|\n\n|X",
    "llama-bpe": "It|'s| |123|45| a|./| DON|'T|\n\n|X",
    "qwen2": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "smollm": "It|'s| |1|2|3|4|5| a|./| DON|'|T|\n|\n|X",
    "tekken": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "gpt-4o": "It's| |123|45| a|./| DON'T|\n\n|X",
    "falcon": "It|'|s| |123|45| a|./| DON|'|T|\n|\n|X",
}


@pytest.mark.parametrize("pre", WORDS)
def test_a_text_is_cut_into_words_as_the_file_says(pre: str, write_gguf: WriteGguf) -> None:
    tokenizer = tokenizer_of(open_gguf(write_gguf("llama", **{"tokenizer.ggml.pre": pre})))
    text = "It's 12345 a./ DON'T\n\nX"
    words = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert words == WORDS[pre].split("|")


def test_an_unknown_way_to_cut_words_is_refused_with_the_known_ones(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match=r"pre-tokenizer 'odd' is not known; known are a\.x-4\.0, .*tekken"):
        open_gguf(write_gguf("llama", **{"tokenizer.ggml.pre": "odd"}))


def test_an_unknown_tokenizer_is_refused_by_name(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match="tokenizer 't5' is not known; known are gpt2 and llama"):
        open_gguf(write_gguf("llama", **{"tokenizer.ggml.model": "t5"}))


@pytest.mark.parametrize("key", ["model", "pre", "tokens", "merges"])
def test_a_tokenizer_that_lacks_a_part_is_refused_by_name(key: str, write_gguf: WriteGguf) -> None:
    with pytest.raises(CheckpointError, match=f"lacks tokenizer.ggml.{key}: convert the checkpoint again"):
        open_gguf(write_gguf("llama", without=f"tokenizer.ggml.{key}"))


def test_merges_that_do_not_belong_to_the_tokens_are_damage(write_gguf: WriteGguf) -> None:
    with pytest.raises(CheckpointError, match="its tokenizer is damaged"):
        open_gguf(write_gguf("llama", **{"tokenizer.ggml.merges": ["no such", "pair no"]}))


# SentencePiece

WORDS_OF_PIECES = [
    "\u2581",
    "a",
    "b",
    "c",
    "1",
    "\u00e9",
    "ab",
    "\u2581a",
    "abc",
    "bc",
    "\u2581abc",
    "\u2581\u2581",
    "cab",
    "11",
]


def pieces() -> tuple[list[str], list[int], list[float]]:
    """Tokens, kinds and scores: three that are special, one for each byte, a run of spaces, and the pieces."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "   ", *WORDS_OF_PIECES]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, TokenType.USER_DEFINED]
    kinds += [TokenType.NORMAL] * len(WORDS_OF_PIECES)
    scores = [0.0] * 260 + [-float(place) for place in range(len(WORDS_OF_PIECES))]
    return tokens, [int(kind) for kind in kinds], scores


def merged_by_score(text: str, *, prefix: bool) -> list[int]:
    """What the sentencepiece library does, step by step: merge the neighbours whose piece has the best score."""
    tokens, _, scores = pieces()
    symbols = list((" " * prefix + text).replace(" ", "\u2581"))
    while True:
        pairs = [
            (scores[tokens.index(pair)], -place)
            for place, pair in enumerate(map("".join, itertools.pairwise(symbols)))
            if pair in WORDS_OF_PIECES
        ]
        if not pairs:
            break
        place = -max(pairs)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    ids = []
    for symbol in symbols:
        ids += [tokens.index(symbol)] if symbol in tokens else [3 + byte for byte in symbol.encode()]
    return ids


@functools.cache
def sentencepiece_file(write_gguf: WriteGguf, prefix: bool) -> tokenizers.Tokenizer:
    tokens, kinds, scores = pieces()
    settings = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, "add_space_prefix": prefix}
    return tokenizer_of(
        open_gguf(write_gguf("llama", **{f"tokenizer.ggml.{key}": value for key, value in settings.items()}))
    )


@pytest.mark.parametrize("prefix", [True, False])
@settings(deadline=None)
@given(text=st.text(st.sampled_from("abc 1\u00e9")) | st.text())
def test_a_sentencepiece_tokenizer_merges_by_score(text: str, prefix: bool, write_gguf: WriteGguf) -> None:
    assume("   " not in text and "\u2581" not in text and "<" not in text and text)
    tokenizer = sentencepiece_file(write_gguf, prefix)
    assert tokenizer.encode(text).ids == [1, *merged_by_score(text, prefix=prefix)]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_user_defined_runs_of_spaces_are_tokens(write_gguf: WriteGguf) -> None:
    tokenizer = sentencepiece_file(write_gguf, False)
    ids = tokenizer.encode("a   b").ids
    assert [tokenizer.id_to_token(token_id) for token_id in ids] == ["<s>", "a", "\u2581\u2581\u2581", "b"]
    assert tokenizer.decode(ids) == "a   b"
