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

from skipstone.api import plan
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
    return ends(gguf_file(write_gguf, *names, kind=kind, **settings))


def gguf_file(write_gguf: WriteGguf, *names: str, kind: int = 3, **settings: Any) -> Path:
    path = write_gguf("llama")
    checkpoint: Checkpoint = open_checkpoint(path)
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])
    texts = [tokenizer.id_to_token(token_id) or f"[PAD{token_id}]" for token_id in range(VOCAB_SIZE)]
    kinds = [3 if token_id < 3 else 1 for token_id in range(FREE)] + [5] * (VOCAB_SIZE - FREE)
    texts[FREE : FREE + len(names)] = names
    kinds[FREE : FREE + len(names)] = [kind] * len(names)
    stated = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": kinds}
    return write_gguf("llama", **(stated | settings))


def gguf_tokenizer(write_gguf: WriteGguf, *names: str, kind: int, **settings: Any) -> tokenizers.Tokenizer:
    checkpoint = open_checkpoint(gguf_file(write_gguf, *names, kind=kind, **settings))
    return tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])


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


# Words of a GGUF file that look like control tokens


@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|fim_pad|>"])
@pytest.mark.parametrize("kind", [1, 4])
def test_a_name_that_looks_like_a_control_token_is_one_whatever_its_type(
    name: str, kind: int, write_gguf: WriteGguf
) -> None:
    """A file whose eos is <|endoftext|>, without a template: as llama.cpp takes it."""
    eos = {"tokenizer.ggml.eos_token_id": FREE + 1}
    found = gguf_ends(write_gguf, name, "<|endoftext|>", kind=kind, **eos)
    assert (found[FREE], found[FREE + 1]) == ("name", "tokenizer.ggml.eos_token_id, name")
    tokenizer = gguf_tokenizer(write_gguf, name, "<|endoftext|>", kind=kind, **eos)
    assert tokenizer.encode(f"a{name}", add_special_tokens=False).ids == [*tokenizer.encode("a").ids[-1:], FREE]
    assert tokenizer.decode([FREE, FREE + 1]) == "", "it is never printed"


@pytest.mark.parametrize(
    "name", ["<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "<|turn>", "<\uff5cUser\uff5c>"]
)
def test_a_name_of_that_look_which_a_template_writes_is_one_token_that_ends_nothing(
    name: str, write_gguf: WriteGguf
) -> None:
    template = {"tokenizer.chat_template": CHATML.replace("<|im_start|>", name)}
    tokenizer = gguf_tokenizer(write_gguf, name, "<|im_end|>", kind=1, **template)
    assert tokenizer.encode(f"{name}<|im_end|>", add_special_tokens=False).ids == [FREE, FREE + 1]
    assert tokenizer.decode([FREE]) == ""
    assert set(gguf_ends(write_gguf, name, "<|im_end|>", kind=1, **template)) == {2, FREE + 1}


@pytest.mark.parametrize("name", ["<|im_start|>", "<start_of_turn>"])
def test_a_name_of_that_look_which_no_template_writes_stays_a_word(name: str, write_gguf: WriteGguf) -> None:
    assert gguf_tokenizer(write_gguf, name, kind=1).decode([FREE]) == name


@pytest.mark.parametrize("name", ["user", "<b>", "<tool_call>", "<think>", "<|"])
def test_another_word_of_a_template_stays_a_word(name: str, write_gguf: WriteGguf) -> None:
    template = {"tokenizer.chat_template": f"{name}{CHATML}"}
    assert gguf_tokenizer(write_gguf, name, kind=1, **template).decode([FREE]) == name


# Ends that the model has no row for


def said(source: Path) -> list[str]:
    return [remark for remark in plan(source).remarks if "end token" in remark]


@pytest.mark.parametrize(
    ("stated", "left_out"),
    [
        ([2, 99999], ["99999"]),
        ([2, None], ["None"]),
        ([2, -1, "</s>", VOCAB_SIZE, -1], ["-1", "'</s>'", "307"]),
        ([2, [2]], ["[2]"]),
    ],
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_end_without_a_row_is_left_out_and_said_once(
    stated: list[object], left_out: list[str], file: str, folder: Path
) -> None:
    if file == "config.json":
        (folder / "generation_config.json").unlink()
        say(folder / file, **(json.loads((folder / file).read_text()) | {"eos_token_id": stated}))
    else:
        say(folder / file, eos_token_id=stated)
    assert set(ends(folder)) == {2}
    shown = ", ".join(f"{token} ({file})" for token in left_out)
    assert said(folder) == [f"end tokens that the model has no row for are left out: {shown}"]


def test_the_config_counts_where_the_generation_config_states_no_end_that_can_be(folder: Path) -> None:
    say(folder / "generation_config.json", eos_token_id=-1)
    config = json.loads((folder / "config.json").read_text())
    say(folder / "config.json", **(config | {"eos_token_id": [-1, 40]}))
    assert ends(folder)[40] == "config.json"
    assert said(folder)[0].endswith("left out: -1 (generation_config.json, config.json)")


def test_an_end_of_a_gguf_file_without_a_row_is_left_out_and_said_once(write_gguf: WriteGguf) -> None:
    path = write_gguf("llama", **{"tokenizer.ggml.eot_token_id": 9999})
    assert set(ends(path)) == {2}
    place = "9999 (tokenizer.ggml.eot_token_id)"
    assert said(path) == [f"end tokens that the model has no row for are left out: {place}"]


def test_a_model_that_is_left_without_an_end_is_planned_and_says_so(write_gguf: WriteGguf) -> None:
    path = gguf_file(write_gguf, **{"tokenizer.ggml.tokens": renamed(write_gguf), "tokenizer.ggml.eos_token_id": 9999})
    assert ends(path) == {}
    assert said(path)[0].endswith(": none is left, and every answer runs to its limit")


def renamed(write_gguf: WriteGguf) -> list[str]:
    """The tokens of the tiny checkpoint, with another name for `</s>`."""
    tokenizer = tokenizers.Tokenizer.from_buffer(open_checkpoint(write_gguf("llama")).texts["tokenizer.json"])
    texts = [tokenizer.id_to_token(token_id) or f"[PAD{token_id}]" for token_id in range(VOCAB_SIZE)]
    return ["<stop>" if text == "</s>" else text for text in texts]


# False friends


def test_a_strike_through_in_the_vocabulary_ends_nothing(folder: Path, write_gguf: WriteGguf) -> None:
    """Gemma's vocabulary has HTML's tags as added tokens that are not special."""
    add_tokens(folder, "<EOT>", special=False)
    assert FREE not in ends(folder)
    assert FREE not in gguf_ends(write_gguf, "<EOT>", kind=4)


@pytest.mark.parametrize("name", ["</b>", "<EOT>", "[EOS]", "<PAD>"])
def test_a_word_that_plain_text_writes_too_ends_nothing_and_stays_a_word(name: str, write_gguf: WriteGguf) -> None:
    assert FREE not in gguf_ends(write_gguf, name, kind=1)
    assert gguf_tokenizer(write_gguf, name, kind=1).encode(f"a{name}b").ids.count(FREE) == 0


def test_an_added_token_that_looks_like_no_word_ends_a_turn(write_gguf: WriteGguf) -> None:
    assert gguf_ends(write_gguf, "<|im_end|>", kind=4)[FREE] == "name"


def test_a_token_that_parts_the_channels_of_one_answer_is_no_end(write_gguf: WriteGguf) -> None:
    """gpt-oss: <|end|> ends a channel, <|return|> the answer."""
    assert set(gguf_ends(write_gguf, "<|end|>", "<|return|>", "<|call|>")) == {2, FREE + 1, FREE + 2}
    assert set(gguf_ends(write_gguf, "<|end|>", "<|return|>")) == {2, FREE, FREE + 1}
