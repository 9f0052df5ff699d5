"""Active experts on the command line: the dial of `generate`, and the search that `tune active` keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from carved_bundles import carved_by_hand
from command_line import CommandLine
from texts import words

from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.engine import Model

PROMPT = "def add(a, b):"


@pytest.fixture(scope="module")
def bundle(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    levels = {"0.75": ExpertLevel(active=(3,) * 4, kl=0.1)}
    return carved_by_hand(tiny.bundle.path, tmp_path_factory.mktemp("carved") / "bundle", levels=levels)


@pytest.fixture(autouse=True)
def profiles(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_active_is_the_dial_and_its_plain_end_is_plain_decoding(cli: CommandLine, bundle: Path) -> None:
    plain = cli("generate", bundle, "-p", PROMPT, "-n", 12, "--decode", "plain")
    whole = cli("generate", bundle, "-p", PROMPT, "-n", 12, "--active", 1)
    some = cli("generate", bundle, "-p", PROMPT, "-n", 12, "--decode", "active", "--active", 0.5)
    dialled = cli("generate", bundle, "-p", PROMPT, "-n", 12, "--decode", "active", "--dial", 0.5)
    assert whole.out == plain.out and "all tokens as the full model's: all experts are active" in whole.err
    assert some.out == dialled.out and "50% of the experts make each new token" in some.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--active", 2), "the dial of active, the share of experts that are active, must be between 0 and 1, got 2"),
        (("--active", 0.5, "--dial", 0.5), "--active sets the dial, as --dial and --min-agreement do"),
        (("--active", 0.5, "--decode", "plain"), "--active is the dial of active, got --decode plain"),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: CommandLine, bundle: Path, arguments: tuple[object, ...], message: str
) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


def test_a_search_is_kept_and_later_texts_have_its_levels(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(words() * 2)
    outcome = cli("tune", "active", bundle, "--text", text, "--budget", "kl:0.05", "--json")
    found = json.loads(outcome.out)
    assert outcome.code == 0 and found["budget"] == "kl:0.05" and found["levels"][0]["kl"] is not None
    table = cli("tune", "active", bundle, "--text", text)
    assert table.code == 0 and "experts by layer" in table.out and "| all " in table.out
    share = min(level["share"] for level in found["levels"] if level["share"] > 0.5)
    said = cli("generate", bundle, "-p", PROMPT, "-n", 4, "--active", share).err
    assert "to all of them where measured" in said or share == 1


def test_sparse_writes_the_plain_text_from_the_command_line(cli: CommandLine, bundle: Path) -> None:
    plain = cli("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", "plain")
    assert cli("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", "sparse").out == plain.out
