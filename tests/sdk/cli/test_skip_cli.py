"""`tune skip` and `--decode skip` at the command line: searched once, then used, by other cuts too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle

from skipstone.runtime.bundle import Bundle

PROMPT = "def add(first, second):"


@pytest.fixture
def cli(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """Runs commands with a cache folder of their own."""
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return cli


@pytest.fixture(scope="session")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint, cuts="each")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    words = np.random.default_rng(0).choice(["def", "add", "self", "tokens", "(", "):", "\n", "fox"], size=2500)
    file = tmp_path / "text.txt"
    file.write_text(" ".join(words), encoding="utf-8")
    return file


def test_what_tune_finds_generate_uses(cli: CommandLine, bundle: Path, text_file: Path, tmp_path: Path) -> None:
    outcome = cli("tune", "skip", bundle, "--text", text_file)
    assert outcome.code == 0
    rows = dict(line.split("  ", 1) for line in outcome.out.splitlines())
    assert list(rows) == ["layers left out", "agreement", "draft cost", "expected speed"]
    assert rows["layers left out"].strip() in ("1 (of 0 to 3)", "2 (of 0 to 3)", "1, 2 (of 0 to 3)")
    (kept,) = (tmp_path / "cache" / "profiles").glob("skip-*.json")
    assert f"kept in {kept}\n" in outcome.err
    shown = rows["layers left out"].strip() + ": as the full model on " + rows["agreement"].strip()
    assert f"layers to skip {shown}" in " ".join(cli("inspect", bundle).out.split())
    plain = cli("generate", bundle, "-p", PROMPT, "-n", 40, "--decode", "plain").out
    drafted = cli("generate", bundle, "-p", PROMPT, "-n", 40, "--decode", "skip", "--stats")
    assert drafted.out == plain and "skip" in drafted.err


def test_json_has_what_is_kept_and_layers_that_do_not_pay_are_called_so(
    cli: CommandLine, bundle: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = cli("tune", "skip", bundle, "--text", text_file, "--json")
    found = json.loads(outcome.out)
    (kept,) = (tmp_path / "cache" / "profiles").glob("skip-*.json")
    saved = json.loads(kept.read_text())
    assert found == {"bundle": str(bundle), **saved["made_for"], **saved["finding"]}
    # Random layers are all needed: half the tokens come otherwise without one.
    assert found["agreement"] < 0.9 and (found["speed_up"] < 1) == ("`--decode skip` does not pay" in outcome.err)


def test_a_bundle_of_one_stage_says_how_to_make_more(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle, text_file: Path
) -> None:
    whole = make_bundle(tiny_checkpoint)
    for command in (("tune", "skip", whole, "--text", text_file), ("generate", whole, "-p", "x", "--decode", "skip")):
        outcome = cli(*command)
        assert (outcome.code, outcome.out) == (2, "")
        assert "`skipstone export CHECKPOINT -o OUT --cuts each`" in outcome.err


def test_without_a_search_generate_says_which_command_makes_it(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("generate", bundle, "-p", "x", "--decode", "skip")
    assert outcome.code == 2
    assert "may leave out is not known; run `skipstone tune skip BUNDLE --text FILE` once" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seconds", "1"), "No such option: --seconds"),
        (("--text", "missing.txt"), "missing.txt cannot be read"),
    ],
)
def test_tune_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli("tune", "skip", bundle, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err and len(outcome.err.splitlines()) == 1


def test_a_short_text_is_refused(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("def add(first, second): return first + second")
    outcome = cli("tune", "skip", bundle, "--text", tmp_path / "short.txt")
    assert outcome.code == 2 and "the search wants at least 2000" in outcome.err


def test_export_cuts_stages_where_it_is_told(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--exits", "2", "--cuts", "1,3").code == 0
    manifest = Bundle.open(tmp_path / "out").manifest
    assert [stage.end_layer for stage in manifest.stages] == [1, 2, 3, 4]
    assert (manifest.exits, manifest.head) == ((2,), "head.onnx")
    outcome = cli("export", tiny_checkpoint, "-o", tmp_path / "none", "--cuts", "4")
    assert outcome.code == 2 and "--cuts 4: a cut lies between layer 1 and 3 of this model" in outcome.err
    outcome = cli("export", tiny_checkpoint, "-o", tmp_path / "none", "--cuts", "each", "--via", "optimum")
    assert outcome.code == 2 and "cuts each does not go with optimum" in outcome.err
