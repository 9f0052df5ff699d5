"""docs/first-model.md with the model that it names: its commands work, and drafts do not change a text."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from conftest import MakeBundle

import skipstone

PAGE = Path(__file__).parents[2] / "docs" / "first-model.md"
FILE = re.compile(r"\S*\.gguf")
# An answer whose words repeat, and one that does not.
PROMPTS = (
    "<|im_start|>user\nList ten animals.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nExplain how a bicycle works.<|im_end|>\n<|im_start|>assistant\n",
)


def commands() -> list[list[str]]:
    """Return the words of the page's calls of skipstone."""
    lines = [line.removeprefix("$ ").partition(" #")[0] for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("skipstone ")]


def test_the_page_exports_asks_and_chats() -> None:
    assert list(dict.fromkeys(words[0] for words in commands()))[:3] == ["export", "generate", "chat"]


def test_the_commands_of_the_page_work(
    real_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CommandLine(monkeypatch, capfd)
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    for words in commands():
        if "--install-completion" in words or any("HuggingFaceTB/" in word for word in words):
            continue  # the one changes the shell, the others ask the network
        given = [FILE.sub(str(real_file), word) for word in words if word not in ("<", "paper.txt")]
        outcome = run(*given, stdin="What is the capital of France?\n" if words[0] == "chat" else "")
        assert outcome.code == 0, outcome.err
        if words[0] == "generate":
            assert ("Paris" in outcome.out) == ("--raw" in words)
        if words[0] == "chat":
            assert len(outcome.out.split()) > 2 and "<|" not in outcome.out


@pytest.mark.parametrize("options", [{}, {"precision": "int4"}, {"precision": "int8"}], ids=["kept", "int4", "int8"])
def test_drafts_do_not_change_a_text_of_a_real_model(
    options: dict[str, Any], real_file: Path, make_bundle: MakeBundle
) -> None:
    model = skipstone.load(make_bundle(real_file, **options))
    for prompt in PROMPTS:
        plain = model.generate(prompt, max_new_tokens=32, decode="plain")
        if "near ties" in (plain.stats.same_text or ""):
            pytest.skip(f"on this processor the text is {plain.stats.same_text}")
        for decode in ("auto", "ngram"):
            assert model.generate(prompt, max_new_tokens=32, decode=decode).token_ids == plain.token_ids, decode
