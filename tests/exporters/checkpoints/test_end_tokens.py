"""Who ends a turn: one place decides it, from all that a checkpoint says, for every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import MakeCheckpoint
from gguf_files import WriteGguf
from tokenizers import AddedToken

from skipstone.exporters.checkpoints import Checkpoint, TokenRoles, open_checkpoint

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
VOCAB_SIZE = 307
FREE = 300  # the ids behind the tokens of the tiny tokenizer, for which the model has rows


@pytest.fixture
def folder(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A folder of Hugging Face whose settings name `</s>`; files are changed in a copy."""
    import shutil

    copy = tmp_path / "checkpoint"
    shutil.copytree(make_checkpoint(), copy)
    return copy


def add_tokens(folder: Path, *texts: str, special: bool = True) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts])
    tokenizer.save(str(folder / "tokenizer.json"))


def ends(source: Path) -> dict[int, str]:
    return dict(TokenRoles.read(open_checkpoint(source), vocab_size=VOCAB_SIZE).ends)


def say(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(settings))


def gguf_ends(write_gguf: WriteGguf, *names: str, kind: int = 3, **settings: Any) -> dict[int, str]:
    """The ends of a file in which the first free tokens are called `names`, of one kind."""
    path = write_gguf("llama")
    checkpoint: Checkpoint = open_checkpoint(path)
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])
    texts = [tokenizer.id_to_token(token_id) or f"[PAD{token_id}]" for token_id in range(VOCAB_SIZE)]
    kinds = [3 if token_id < 3 else 1 for token_id in range(FREE)] + [5] * (VOCAB_SIZE - FREE)
    texts[FREE : FREE + len(names)] = names
    kinds[FREE : FREE + len(names)] = [kind] * len(names)
    stated = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": kinds}
    return ends(write_gguf("llama", **(stated | settings)))


@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "[EOT]"])
@pytest.mark.parametrize("way", ["gguf", "folder"])
def test_a_special_token_that_is_known_by_its_name_ends_a_turn(
    name: str, way: str, folder: Path, write_gguf: WriteGguf
) -> None:
    add_tokens(folder, name)
    found = ends(folder) if way == "folder" else gguf_ends(write_gguf, name)
    assert found[FREE] == "name"
    assert set(found) == {2, FREE}


def test_every_key_of_a_gguf_file_that_names_an_end_is_taken_with_its_name(write_gguf: WriteGguf) -> None:
    keys = {f"tokenizer.ggml.{role}_token_id": 40 + place for place, role in enumerate(("eot", "eom", "fim_sep"))}
    found = gguf_ends(write_gguf, **keys)
    assert found == {2: "tokenizer.ggml.eos_token_id, name"} | {value: key for key, value in keys.items()}


def test_an_end_that_only_the_tokenizers_configuration_knows_ends_a_text(folder: Path) -> None:
    add_tokens(folder, "<stop>")
    say(folder / "tokenizer_config.json", eos_token={"content": "<stop>"})
    assert ends(folder)[FREE] == "tokenizer_config.json"


def test_an_end_that_only_the_map_of_special_tokens_knows_ends_a_text(folder: Path) -> None:
    add_tokens(folder, "<stop>")
    say(folder / "special_tokens_map.json", eos_token="<stop>")
    assert ends(folder)[FREE] == "special_tokens_map.json"


@pytest.mark.parametrize("special", [True, False])
def test_what_the_chat_template_writes_behind_an_answer_ends_a_turn(folder: Path, special: bool) -> None:
    add_tokens(folder, "<my_end>", "<my_end>s", special=special)
    (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", " <my_end>"))
    assert ends(folder) == {2: "generation_config.json, config.json, name", FREE: "chat template"}


def test_a_template_that_ends_turns_in_one_token_leaves_the_stated_one_an_end(folder: Path) -> None:
    add_tokens(folder, "<|im_start|>", "<|im_end|>")
    say(folder / "tokenizer_config.json", eos_token="</s>", chat_template=CHATML)
    assert ends(folder) == {
        2: "generation_config.json, config.json, tokenizer_config.json, name",
        FREE + 1: "chat template, name",
    }


def test_a_template_that_fails_says_nothing_of_ends(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    assert set(ends(folder)) == {2}


def test_what_the_config_states_beside_the_generation_config_must_be_a_special_token(folder: Path) -> None:
    """Token 40 is a word: the config kept what its class has by default."""
    add_tokens(folder, "<stop>")
    config = json.loads((folder / "config.json").read_text())
    say(folder / "config.json", **(config | {"eos_token_id": [40, FREE]}))
    assert set(ends(folder)) == {2, FREE}
    (folder / "generation_config.json").unlink()
    assert set(ends(folder)) == {40, FREE, 2}


# False friends


def test_a_strike_through_in_the_vocabulary_ends_nothing(folder: Path, write_gguf: WriteGguf) -> None:
    """Gemma's vocabulary has HTML's tags as added tokens that are not special."""
    add_tokens(folder, "<EOT>", special=False)
    assert FREE not in ends(folder)
    assert FREE not in gguf_ends(write_gguf, "<EOT>", kind=4)


def test_a_word_of_a_base_model_ends_nothing_and_the_word_of_a_template_does(write_gguf: WriteGguf) -> None:
    assert FREE not in gguf_ends(write_gguf, "<|im_end|>", kind=1)
    found = gguf_ends(write_gguf, "<|im_end|>", kind=1, **{"tokenizer.chat_template": CHATML})
    assert found[FREE] == "chat template, name"


def test_an_added_token_that_looks_like_no_word_ends_a_turn(write_gguf: WriteGguf) -> None:
    assert gguf_ends(write_gguf, "<|im_end|>", kind=4)[FREE] == "name"


def test_a_token_that_parts_the_channels_of_one_answer_is_no_end(write_gguf: WriteGguf) -> None:
    """gpt-oss: <|end|> ends a channel, <|return|> the answer."""
    assert set(gguf_ends(write_gguf, "<|end|>", "<|return|>", "<|call|>")) == {2, FREE + 1, FREE + 2}
    assert set(gguf_ends(write_gguf, "<|end|>", "<|return|>")) == {2, FREE, FREE + 1}
