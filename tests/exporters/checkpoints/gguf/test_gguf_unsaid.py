"""What a GGUF file leaves unsaid, or says in keys of its own: each is carried, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from gguf import TokenType
from gguf_files import WriteGguf

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints import Checkpoint, read_sampling
from skipstone.exporters.checkpoints.gguf import open_gguf
from skipstone.runtime.text import ChatTemplate

TURNS = "<|user|>\nHello<|end|>\n<|assistant|>\n"
PIECES = ["\u2581", "H", "e", "l", "o", "\u2581H", "ll", "\u2581He", "llo", "\u2581Hello"]
ADDED = ["<|endoftext|>", "<|assistant|>", "<|user|>", "<|end|>"]


def phi_file(write_gguf: WriteGguf, *, added: TokenType = TokenType.CONTROL, **settings: Any) -> tokenizers.Tokenizer:
    """The tokenizer of a file with SentencePiece tokens and those of a Phi-3 behind them."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *ADDED]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.NORMAL] * len(PIECES) + [added] * len(ADDED)
    stated = {
        **{"model": "llama", "pre": "default", "tokens": tokens, "token_type": [int(kind) for kind in kinds]},
        "scores": [-float(place) for place in range(len(tokens))],
    }
    keys = {f"tokenizer.ggml.{key}": value for key, value in stated.items()}
    checkpoint = open_gguf(write_gguf("llama", **keys, **settings))
    return tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])


def words(tokenizer: tokenizers.Tokenizer, text: str) -> list[str | None]:
    """The tokens of a text, without the white space that one of them took."""
    return [tokenizer.id_to_token(token_id) for token_id in tokenizer.encode(text).ids]


@pytest.mark.parametrize("name", ["Phi-3-mini-4k-instruct", "Phi3", "Phi 3 Mini 4K Instruct"])
@pytest.mark.parametrize("added", [TokenType.CONTROL, TokenType.USER_DEFINED])
def test_special_tokens_of_phi_3_take_the_white_space_behind_them(
    name: str, added: TokenType, write_gguf: WriteGguf
) -> None:
    tokenizer = phi_file(write_gguf, added=added, **{"general.name": name})
    wanted = ["<s>", "<|user|>", "\u2581Hello", "<|end|>", "<|assistant|>"]
    assert words(tokenizer, TURNS) == wanted
    after_end = words(tokenizer, "<|endoftext|>\nHello")
    assert after_end[:2] == ["<s>", "<|endoftext|>"]
    assert "<0x0A>" in after_end, "the token between texts leaves it"


def test_those_of_another_model_leave_it(write_gguf: WriteGguf) -> None:
    left = words(phi_file(write_gguf, **{"general.name": "Some model"}), TURNS)
    assert (len(left), left.count("<0x0A>")) == (13, 3)


def test_a_mask_takes_the_white_space_before_it_where_the_pre_tokenizer_is_jinas(write_gguf: WriteGguf) -> None:
    tokens, kinds = tiny_tokens(write_gguf, "<mask>")
    stated = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    for pre, wanted in (("jina-v2-de", ["a", "<mask>"]), ("gpt-2", ["a", "Ġ", "<mask>"])):
        checkpoint = open_gguf(write_gguf("llama", **stated, **{"tokenizer.ggml.pre": pre}))
        tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])
        assert words(tokenizer, "a <mask>") == wanted


def tiny_tokens(write_gguf: WriteGguf, *names: str) -> tuple[list[str], list[int]]:
    """The tokens and kinds of the tiny checkpoint, the first of the free ones called `names`."""
    tokenizer = tokenizers.Tokenizer.from_buffer(open_gguf(write_gguf("llama")).texts["tokenizer.json"])
    texts = [tokenizer.id_to_token(token_id) or f"[PAD{token_id}]" for token_id in range(307)]
    kinds = [3 if token_id < 3 else 1 if token_id < 300 else 5 for token_id in range(307)]
    texts[300 : 300 + len(names)], kinds[300 : 300 + len(names)] = names, [3] * len(names)
    return texts, kinds


def test_a_file_that_names_no_first_and_last_token_has_those_of_its_kind(write_gguf: WriteGguf) -> None:
    tokenizer = phi_file(write_gguf, without="tokenizer.ggml.bos_token_id")
    assert words(tokenizer, "Hello") == ["<s>", "\u2581Hello"]


# Templates


def named(folder: Path, checkpoint: Checkpoint) -> ChatTemplate | None:
    for name, content in checkpoint.texts.items():
        (folder / name).write_bytes(content)
    return ChatTemplate.load(folder)


def test_named_templates_are_carried_as_transformers_does_and_tools_use_theirs(
    write_gguf: WriteGguf, tmp_path: Path
) -> None:
    keys = {
        "tokenizer.chat_template": "plain",
        "tokenizer.chat_template.tool_use": "with {{ tools | length }} tools",
        "tokenizer.chat_template.rag": "with documents",
        "tokenizer.chat_templates": ["tool_use", "rag"],
    }
    checkpoint = open_gguf(write_gguf("llama", **keys))
    assert json.loads(checkpoint.texts["tokenizer_config.json"])["chat_template"] == [
        {"name": "default", "template": "plain"},
        {"name": "rag", "template": "with documents"},
        {"name": "tool_use", "template": "with {{ tools | length }} tools"},
    ]
    chat = named(tmp_path, checkpoint)
    assert chat is not None
    assert (chat.render([]), chat.render([], tools=[{}, {}])) == ("plain", "with 2 tools")


def test_named_templates_without_a_default_leave_a_model_without_a_template(
    write_gguf: WriteGguf, tmp_path: Path
) -> None:
    checkpoint = open_gguf(write_gguf("llama", **{"tokenizer.chat_template.rag": "with documents"}))
    assert named(tmp_path, checkpoint) is None


# Sampling


def test_the_recommended_sampling_is_carried(write_gguf: WriteGguf) -> None:
    keys = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "penalty_repeat": 1.05}
    checkpoint = open_gguf(write_gguf("llama", **{f"general.sampling.{key}": value for key, value in keys.items()}))
    wanted = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}
    assert read_sampling(checkpoint) == (wanted, [])
    config = json.loads(checkpoint.texts["generation_config.json"])
    assert config == {"bos_token_id": 1, "eos_token_id": [2], "do_sample": True, **wanted}
    assert checkpoint.remarks == ()


@pytest.mark.parametrize(
    ("key", "value", "odd"),
    [
        ("temp", -1.0, "temperature -1.0"),
        ("temp", float("nan"), "temperature nan"),
        ("temp", "x", "temperature 'x'"),
        ("top_k", 40.5, "top_k 40.5"),
    ],
)
def test_no_value_stands_for_a_recommended_one_that_cannot_be(
    key: str, value: object, odd: str, write_gguf: WriteGguf
) -> None:
    assert read_sampling(open_gguf(write_gguf("llama", **{f"general.sampling.{key}": value}))) == ({}, [odd])


def test_a_recommended_sampler_that_there_is_none_of_is_left_out_and_said(write_gguf: WriteGguf) -> None:
    keys = {"general.sampling.mirostat": 2, "general.sampling.xtc_probability": 0.0}
    remarks = open_gguf(write_gguf("llama", **keys)).remarks
    assert remarks == ("general.sampling.mirostat: recommended, but there is no such sampler here: left out",)


# Every key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.add_sep_token", True),
        ("tokenizer.ggml.normalizer.lowercase", True),
        ("tokenizer.ggml.suppress_tokens", [5, 6]),
        ("tokenizer.ggml.token_type_count", 2),
    ],
)
def test_a_setting_of_a_tokenizer_that_changes_ids_or_choices_is_refused_by_name(
    key: str, value: object, write_gguf: WriteGguf
) -> None:
    with pytest.raises(UnsupportedModel, match=f"{key}.* is not supported: export the checkpoint"):
        open_gguf(write_gguf("llama", **{key: value}))


def keys_of(*kinds: type) -> list[str]:
    return [
        value
        for kind in kinds
        for name, value in vars(kind).items()
        if not name.startswith("_") and isinstance(value, str)
    ]


DOCUMENT = Path(__file__).parents[4] / "docs" / "gguf.md"
ODD = {"bool": True, "float": 0.123}


@pytest.mark.parametrize(
    "key", [key for key in keys_of(gguf.Keys.Tokenizer, gguf.Keys.General) if key.startswith(("tok", "general.samp"))]
)
def test_every_key_of_a_tokenizer_and_of_sampling_is_in_the_document(key: str) -> None:
    assert f"`{key.replace('{name}', 'NAME')}`" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "phi3", "granite"])
def test_every_key_of_a_model_is_carried_or_refused_by_name(architecture: str, write_gguf: WriteGguf) -> None:
    """A key that is set to an odd value changes what is read of the model, or is refused; idle ones are named here."""
    idle = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout"}
    plain, silent = open_gguf(write_gguf(architecture)).config, []
    for key in keys_of(gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope):
        name = key.replace("{arch}.", "").replace("{dense}", "dense")
        try:
            changed = open_gguf(write_gguf(architecture, **{f"{architecture}.{name}": 0.123})).config
        except Exception as error:
            assert name in str(error) or "must be" in str(error), (name, error)
            continue
        if changed == plain and name not in idle:
            silent.append(name)
    assert silent == []
