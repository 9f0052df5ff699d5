"""The text that the package calibrates with: varied, small, and of the form that every reader of it takes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from skipstone.bundled import CALIBRATION_TEXT


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CALIBRATION_TEXT.read_text(encoding="utf-8").splitlines()]


def test_it_is_a_part_of_the_package_and_small() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["skipstone"]
    assert CALIBRATION_TEXT in {path for pattern in patterns for path in CALIBRATION_TEXT.parents[1].glob(pattern)}
    assert 60_000 < CALIBRATION_TEXT.stat().st_size < 200_000


def test_every_line_is_a_text_or_a_chat_that_ends_with_an_answer(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        if "text" in document:
            assert set(document) == {"text"} and document["text"].strip() == document["text"]
            continue
        roles = [message["role"] for message in document["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) and turns
        assert all(message["content"] for message in document["messages"])


def test_no_paragraph_stands_in_it_twice(documents: list[dict[str, Any]]) -> None:
    contents = [content for one in documents for content in _contents(one)]
    paragraphs = [part for content in contents for part in content.split("\n\n") if len(part) > 60]
    assert len(paragraphs) > 300
    assert len(set(paragraphs)) == len(paragraphs)


def test_chats_stand_among_the_texts_from_the_start(documents: list[dict[str, Any]]) -> None:
    """Who calibrates with a part of it has some of both."""
    for start in range(0, len(documents) - 15, 16):
        part = documents[start : start + 16]
        assert 0.2 < sum("messages" in one for one in part) / len(part) < 0.9, start


def test_it_has_several_scripts_and_languages_of_people_and_machines(documents: list[dict[str, Any]]) -> None:
    text = "".join(content for one in documents for content in _contents(one))
    for words in (
        "письм",
        "的",
        "ました",
        "für",
        "être",
        "¿",
        "não",
        "così",
        "def ",
        "fn ",
        "SELECT",
        "#include",
        "0.25",
    ):
        assert words in text, words


def _contents(document: dict[str, Any]) -> list[str]:
    return [document["text"]] if "text" in document else [message["content"] for message in document["messages"]]
