"""Who samples how: a chat as the model recommends, a text greedily unless asked; and every drawn seed can be given."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions

PROMPT = "def add(first, second):"


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


def recommending(model: Model, said: Mapping[str, float]) -> LanguageModel:
    changed = copy.copy(model)
    changed.manifest = replace(model.manifest, sampling=said)
    return LanguageModel(changed)


def answer(model: LanguageModel, *given: GenerationOptions, **named: object) -> Generation:
    return Generation.join(list(model.chat().stream("Hello", *given, **named)))


def test_a_conversation_samples_as_the_model_recommends(tiny: Model) -> None:
    drawn = answer(recommending(tiny, {}), max_new_tokens=8)
    assert drawn.stats.seed is not None
    values = {"temperature": 0.7, "top_p": 0.95, "min_p": 0.05, "seed": drawn.stats.seed}
    assert answer(recommending(tiny, {}), max_new_tokens=8, sampling="greedy", **values).text == drawn.text
    assert answer(recommending(tiny, {}), max_new_tokens=8, seed=drawn.stats.seed).text == drawn.text


def test_a_model_that_recommends_greedy_chats_greedily(tiny: Model) -> None:
    model = recommending(tiny, {"temperature": 0.0, "repetition_penalty": 1.3})
    greedy = answer(model, max_new_tokens=8, sampling="greedy", repetition_penalty=1.3)
    assert answer(model, max_new_tokens=8).text == greedy.text
    assert greedy.stats.seed is None


def test_options_as_a_whole_are_taken_as_they_are(tiny: Model) -> None:
    plain = answer(recommending(tiny, {}), GenerationOptions(max_new_tokens=8))
    assert plain.stats.seed is None
    with pytest.raises(ConfigError, match="temperature given beside options"):
        recommending(tiny, {}).chat().stream("Hello", GenerationOptions(), temperature=1.0)


@pytest.mark.parametrize("prompts", [PROMPT, [PROMPT, "class Sequence:"]])
def test_a_text_is_greedy_and_samples_as_the_model_recommends_where_asked(
    tiny: Model, prompts: str | list[str]
) -> None:
    model = recommending(tiny, {"temperature": 1.5, "top_k": 40})

    def texts(**options: object) -> list[Generation]:
        made = model.generate(prompts, max_new_tokens=8, **options)
        return made if isinstance(made, list) else [made]

    assert [made.stats.seed for made in texts()] == [None] * len(texts())
    drawn = texts(sampling="model")
    for number, made in enumerate(drawn):
        again = texts(temperature=1.5, top_k=40, seed=made.stats.seed)[number]
        assert (again.text, again.stats.seed) == (made.text, made.stats.seed)
    assert [made.text for made in texts(sampling="model", temperature=0)] == [made.text for made in texts()]


def test_samples_say_the_seed_that_gives_each_again(tiny: Model) -> None:
    model = recommending(tiny, {})
    for made in model.samples(PROMPT, 3, max_new_tokens=8, temperature=2.0):
        again = model.generate(PROMPT, max_new_tokens=8, temperature=2.0, seed=made.stats.seed)
        assert again.text == made.text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "temperature 0.7, top_p 0.95, min_p 0.05 (in a chat; the model recommends nothing)"),
        ({"min_p": 0.1}, "temperature 0.7, top_p 0.95, min_p 0.1 (in a chat; the model recommends min_p 0.1)"),
        ({"temperature": 0.6}, "temperature 0.6 (in a chat; as the model recommends)"),
    ],
)
def test_inspect_says_only_of_stated_values_that_the_model_recommends_them(
    cli: CommandLine, bundle: Path, tmp_path: Path, said: dict[str, float], shown: str
) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed)
    manifest = json.loads((changed / "skipstone.json").read_text())
    (changed / "skipstone.json").write_text(json.dumps(manifest | {"sampling": said}))
    assert json.loads(cli("inspect", changed, "--json").out)["sampling"] == shown


def test_the_command_line_prints_the_drawn_seed_and_takes_it_back(cli: CommandLine, bundle: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 8, "--sampling", "model")
    made = json.loads(cli(*command, "--json").out)
    seed = made["stats"]["seed"]
    again = cli(*command, "--seed", seed, "--stats")
    assert again.out == made["text"] + "\n"
    assert f"seed {seed}: the same seed gives the same text" in again.err
    assert "seed" not in cli("generate", bundle, "-p", PROMPT, "-n", 8, "--stats").err


def test_the_first_seed_that_a_chat_says_gives_the_talk_again(cli: CommandLine, bundle: Path) -> None:
    talk = cli("chat", bundle, "-n", 8, stdin="Hello\nAnd you?\n")
    first, second = [int(line.rpartition("seed ")[2]) for line in talk.err.splitlines() if ", seed " in line]
    assert second == first + 1
    assert cli("chat", bundle, "-n", 8, "--seed", first, stdin="Hello\nAnd you?\n").out == talk.out
