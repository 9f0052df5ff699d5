"""How the makers of a model recommend to choose its tokens, by the names of our options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeCheckpoint

from skipstone.api import plan
from skipstone.exporters.checkpoints import open_checkpoint, read_sampling


@pytest.fixture
def folder(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(make_checkpoint(), copy)
    return copy


def say(folder: Path, **settings: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {}),
        ({"temperature": None, "top_p": None}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"temperature": 0.6, "min_p": 0.15}, {"temperature": 0.6, "min_p": 0.15}),
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, {"top_k": 64, "top_p": 0.95}),
        ({"do_sample": True, "min_p": 0.1}, {"min_p": 0.1}),
        ({"do_sample": True, "top_k": 0}, {"top_k": 0}),
        ({"do_sample": True}, {}),
        ({"do_sample": False, "temperature": 0.6, "top_k": 5}, {"temperature": 0.0}),
        ({"do_sample": False, "repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "temperature": 0.5, "top_k": -1}, {"temperature": 0.5, "top_k": 0}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0}),
    ],
)
def test_the_recommendation_is_what_the_generation_config_says(
    folder: Path, settings: dict[str, Any], wanted: dict[str, float]
) -> None:
    say(folder, eos_token_id=2, **settings)
    assert read_sampling(open_checkpoint(folder)) == (wanted, [])


def test_a_value_that_cannot_be_is_left_out_and_said(folder: Path) -> None:
    say(folder, do_sample=True, temperature="hot", top_p=3, top_k=20)
    assert plan(folder).remarks == (
        "recommended sampling: temperature 'hot', top_p 3 is no value that can be, and left out",
    )
    assert read_sampling(open_checkpoint(folder))[0] == {"top_k": 20}


@pytest.mark.parametrize("value", ["0.6", "x", -1.0, float("nan"), True, [0.6]])
def test_no_value_stands_for_a_temperature_that_cannot_be(folder: Path, value: object) -> None:
    say(folder, do_sample=True, temperature=value)
    assert read_sampling(open_checkpoint(folder)) == ({}, [f"temperature {value!r}"])


def test_rules_for_single_tokens_and_texts_are_left_out_and_said_in_one_line(folder: Path) -> None:
    say(
        folder,
        suppress_tokens=[1, 2],
        begin_suppress_tokens=[220],
        bad_words_ids=[[3]],
        stop_strings="\n\n",
        sequence_bias={},
        forced_bos_token_id=0,
    )
    assert plan(folder).remarks == (
        "generation_config.json: suppress_tokens, begin_suppress_tokens, bad_words_ids, stop_strings, "
        "forced_bos_token_id are left out: texts are made without such rules",
    )


@pytest.mark.parametrize("empty", [None, [], ""])
def test_rules_that_say_nothing_are_no_remark(folder: Path, empty: object) -> None:
    say(folder, suppress_tokens=empty, begin_suppress_tokens=empty, bad_words_ids=empty, stop_strings=empty)
    assert plan(folder).remarks == ()


def test_one_rule_that_is_left_out_is_named(folder: Path) -> None:
    say(folder, stop_strings=["###"])
    assert plan(folder).remarks == (
        "generation_config.json: stop_strings is left out: texts are made without such rules",
    )
