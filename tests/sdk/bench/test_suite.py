"""The prompts that decoding methods are compared on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import skipstone
from skipstone.bench import SUITES, Category, Suite
from skipstone.errors import ConfigError
from skipstone.runtime.text import Tokenizer

PEBBLE = Path(skipstone.__file__).parent / "models" / "pebble"
PEBBLE_CONTEXT, NEW_TOKENS = 1024, 192
CATEGORIES = ["completion", "repetitive code", "edit", "table", "long context", "noise"]


@pytest.fixture(scope="module")
def code() -> Suite:
    return Suite.named("code")


def category(suite: Suite, name: str) -> Category:
    (found,) = [category for category in suite.categories if category.name == name]
    return found


def test_the_code_suite_has_three_or_four_prompts_in_each_of_its_categories(code: Suite) -> None:
    assert [category.name for category in code.categories] == CATEGORIES
    assert {len(category.prompts) for category in code.categories} <= {3, 4}
    assert [category.name for category in code.categories if category.adversarial] == ["noise"]
    assert code.num_prompts == sum(len(category.prompts) for category in code.categories)


def test_no_prompt_stands_in_a_suite_twice(code: Suite) -> None:
    prompts = [prompt for category in code.categories for prompt in category.prompts]
    assert len({prompt.name for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)


def test_an_unknown_suite_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"suite 'prose' is not known; known are code$"):
        Suite.named("prose")


def test_every_prompt_leaves_room_for_its_answer_in_the_context_of_the_bundled_model(code: Suite) -> None:
    tokenizer = Tokenizer.load(PEBBLE)
    for one in code.categories:
        for prompt in one.prompts:
            assert len(tokenizer.encode(prompt.text)) + NEW_TOKENS <= PEBBLE_CONTEXT, prompt.name
    for prompt in category(code, "long context").prompts:
        assert len(tokenizer.encode(prompt.text)) > 600


def test_every_file_of_a_suite_is_used_and_is_part_of_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["skipstone"]
    packed = {path for pattern in patterns for path in SUITES.parent.glob(pattern)}
    for folder in SUITES.iterdir():
        index = tomllib.loads((folder / "suite.toml").read_text(encoding="utf-8"))
        used = {"suite.toml"} | {file for entry in index["categories"] for file in entry["files"]}
        assert {path.name for path in folder.iterdir()} == used
        assert index["name"] == folder.name
        assert set(folder.iterdir()) <= packed


def test_prompts_end_where_a_line_does(code: Suite) -> None:
    for one in code.categories:
        for prompt in one.prompts:
            assert not prompt.text.endswith(("\n", " ")), prompt.name


def test_an_edited_file_begins_as_the_file_itself(code: Suite) -> None:
    for prompt in category(code, "edit").prompts:
        _, as_it_is, original, request, changed = re.split(r"^# \w+\.py, (.*)\n", prompt.text, flags=re.M)
        assert as_it_is == "as it is"
        assert request != as_it_is
        assert 0 < len(changed) < len(original) / 2
        assert original.startswith(changed)


def test_noise_never_repeats_itself(code: Suite) -> None:
    for prompt in category(code, "noise").prompts:
        quadruples = [prompt.text[start : start + 4] for start in range(len(prompt.text) - 3)]
        assert len(set(quadruples)) == len(quadruples)
