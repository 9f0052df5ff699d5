"""Spellings of other programs: those that mean the same are taken, the others say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from conftest import MakeBundle

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.options import chat_options, generation_options, sampling_options
from skipstone.runtime.engine import Model
from skipstone.spellings import ADVICE, ALIASES

VALUES: dict[str, Any] = {
    "max_new_tokens": 7,
    "min_new_tokens": 3,
    "temperature": 0.5,
    "typical": 0.9,
    "no_repeat_ngram": 2,
    "banned_ids": [5, 6],
    "stop": ["\n"],
    "logprobs": 2,
}


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_gives_the_options_that_our_name_gives(alias: str) -> None:
    own, base = ALIASES[alias], {"temperature": 1.0} if ALIASES[alias] == "typical" else {}
    options = generation_options(**{alias: VALUES[own]}, **base)
    assert options == generation_options(**{own: VALUES[own]}, **base)
    assert options != generation_options(**base)
    assert chat_options(**{alias: VALUES[own]}) == chat_options(**{own: VALUES[own]})


def test_calls_take_them_as_well(tiny: Model) -> None:
    model = LanguageModel(tiny)
    wanted = model.generate("x = ", max_new_tokens=5, temperature=0.9, seed=1)
    assert model.generate("x = ", max_tokens=5, temp=0.9, seed=1).token_ids == wanted.token_ids
    assert len(model.chat().reply("x", max_tokens=3).token_ids) <= 3
    assert len(model.chat([{"role": "user", "content": "x"}], max_completion_tokens=3).token_ids) <= 3


@pytest.mark.parametrize("options", [generation_options, chat_options])
@pytest.mark.parametrize("values", [(5, 6), (5, 5)])
def test_an_option_under_two_names_is_refused(options: Any, values: tuple[int, int]) -> None:
    first, second = values
    with pytest.raises(ConfigError, match="max_new_tokens and max_tokens are one option; give one of them"):
        options(max_new_tokens=first, max_tokens=second)


def test_none_under_a_second_name_is_not_given() -> None:
    assert generation_options(max_new_tokens=5, max_tokens=None) == generation_options(max_new_tokens=5)
    assert generation_options(max_tokens=None, max_new_tokens=5) == generation_options(max_new_tokens=5)
    assert generation_options(max_new_tokens=None, max_tokens=5) == generation_options(max_new_tokens=5)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("max_new_token", "max_new_tokens"),
        ("max_toks", "max_new_tokens"),
        ("temprature", "temperature"),
        ("topk", "top_k"),
        ("top-p", "top_p"),
        ("repetion_penalty", "repetition_penalty"),
        ("contextlength", "context_length"),
        ("processor", "processors"),
    ],
)
def test_an_unknown_option_names_the_nearest(name: str, own: str) -> None:
    with pytest.raises(ConfigError, match=rf"^unknown option {name}; did you mean {own}\?$"):
        generation_options(**{name: 1})


@pytest.mark.parametrize("name", ADVICE)
def test_what_means_something_else_says_what_to_do(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^unknown option {name}: .{{20}}") as raised:
        generation_options(**{name: 1})
    assert "\n" not in str(raised.value)
    assert name not in ALIASES


def test_what_is_near_nothing_names_all_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"^unknown option xyzzy; known are banned_ids, .* typical, verify$"):
        generation_options(xyzzy=1)


def test_options_of_drafts_are_those_of_sampling() -> None:
    assert sampling_options(temp=0.5, seed=1) == sampling_options(temperature=0.5, seed=1)
    with pytest.raises(ConfigError, match="unknown option max_new_tokens"):
        sampling_options(max_tokens=5)


def test_the_command_line_takes_them_too_and_its_help_shows_one_name(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    arguments = ("generate", make_bundle(tiny_checkpoint), "-p", "x", "--seed", "1")
    here = cli(*arguments, "--max-new-tokens", "4", "--temperature", "0.5").out
    assert here and cli(*arguments, "--max-tokens", "4", "--temp=0.5").out == here
    assert "--max-tokens" not in cli("generate", "--help").out
