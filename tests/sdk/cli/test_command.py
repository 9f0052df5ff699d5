"""How commands are declared: options spelled once, groups with a default, and old spellings that still work."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer
from command_line import CommandLine
from conftest import MakeBundle
from typer.testing import CliRunner

from skipstone.cli.command import PanelCommand, unfold
from skipstone.cli.generation import DecodingFlags, DraftFlags, LengthFlags, SamplingFlags, given
from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.sampling import SamplingOptions

FLAGS = (LengthFlags, DraftFlags, DecodingFlags, SamplingFlags)
OF_LOADING = {"draft_model", "draft_device", "suffix_memory"}
OF_METHODS = {"active"}  # which sets the method and its dial
NOT_AT_THE_COMMAND_LINE = {"logit_bias", "banned_ids", "processors"}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return CommandLine(monkeypatch, capfd)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


def test_every_field_of_the_options_is_an_option_of_the_command_line() -> None:
    names = [field.name for kind in FLAGS for field in fields(kind)]
    assert len(names) == len({*names}), "each is spelled once"
    known = {field.name for kind in (GenerationOptions, SamplingOptions) for field in fields(kind)}
    of_showing = {"logprobs"}
    assert {*names} - OF_LOADING - OF_METHODS == known - NOT_AT_THE_COMMAND_LINE - of_showing


def test_options_that_were_not_given_keep_the_defaults_of_the_runtime() -> None:
    assert given(LengthFlags(), DraftFlags(), DecodingFlags(), SamplingFlags()) == {"decode": "auto"}
    assert GenerationOptions().decode == DraftFlags().decode
    zeros = given(DecodingFlags(dial=0.0, exact=True), SamplingFlags(temperature=0.0, seed=0))
    assert zeros == {"dial": 0.0, "exact": True, "temperature": 0.0, "seed": 0}


def test_the_types_are_those_of_the_fields() -> None:
    for kind in FLAGS:
        for name, hint in get_type_hints(kind).items():
            owner = next(
                (one for one in (GenerationOptions, SamplingOptions) if name in one.__dataclass_fields__), None
            )
            if owner is None or name in ("panel", "stop", "verify", "calibration", "sampling"):
                continue
            wanted = get_type_hints(owner)[name]
            assert hint in (wanted, wanted | None), name


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    panel = "Size"
    width: Annotated[int, typer.Option(metavar="N", help="How wide.")]
    height: Annotated[int, typer.Option(metavar="N", help="How high.")] = 2


def test_a_dataclass_among_the_parameters_becomes_its_options() -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=PanelCommand)
    @unfold
    def area(name: str, size: Size) -> None:
        typer.echo(f"{name}: {size.width * size.height}")

    runner = CliRunner()
    assert runner.invoke(app, ["field", "--width", "3"]).output == "field: 6\n"
    assert "--width" in runner.invoke(app, ["field"]).output
    shown = runner.invoke(app, ["--help"]).output
    assert [line for line in shown.splitlines() if line.endswith(":")] == ["Arguments:", "Options:", "Size:"]


# Groups


@pytest.mark.parametrize("arguments", [("pebble", "--help"), ("--seconds", "1", "--help")])
def test_the_bare_word_runs_its_first_command(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    assert cli("tune", *arguments) == cli("tune", "costs", "--help")


def test_a_bare_word_without_a_bundle_names_what_is_missing(cli: CommandLine) -> None:
    outcome = cli("tune")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "skipstone: Missing argument 'BUNDLE'; see skipstone tune costs --help\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("tune", "--exits"), ("tune", "exits")),
        (("tune", "--skip", "--text", "missing.txt"), ("tune", "skip", "--text", "missing.txt")),
        (("tune", "--dial", "self"), ("tune", "dial", "--decode", "self")),
        (("tune", "--dial=self"), ("tune", "dial", "--decode=self")),
        (("eval", "--text", "a", "--decode", "self"), ("eval", "method", "--text", "a", "--decode", "self")),
        (("eval", "--text", "a", "--stop-below", "x"), ("eval", "stops", "--text", "a", "--stop-below", "x")),
        (("bench", "--suite", "prose"), ("bench", "suite", "--suite", "prose")),
        (("bench", "--replay", "a", "--replay", "b"), ("bench", "replay", "--text", "a", "--text", "b")),
    ],
)
def test_old_switches_still_work_and_name_the_command_that_took_their_place(
    cli: CommandLine, bundle: Path, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    outcome, wanted = cli(old[0], bundle, *old[1:]), cli(*new[:2], bundle, *new[2:])
    note, _, rest = outcome.err.partition("\n")
    assert (outcome.code, outcome.out, rest) == (wanted.code, wanted.out, wanted.err)
    assert f"is now `{new[0]} {new[1]}`" in note
    assert cli(old[0], bundle, *old[1:], "-q").err == wanted.err, "quiet leaves the note out"


def test_tune_threads_says_which_number_is_fastest(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("tune", "threads", bundle, "--most", 2, "--new-tokens", 2, "--runs", 1)
    assert outcome.code == 0
    head, *rows = outcome.out.splitlines()
    assert [*re.split(" {2,}", head)] == [
        "threads", "us awake", "processors", "tokens/s", "ms/token", "CPU ms/token", "prompt tokens/s"
    ]  # fmt: skip
    cells = [row.split() for row in rows]
    assert [row[:2] for row in cells[:4]] == [["1", "200"], ["2", "200"], ["2", "0"], ["2", "1000"]]
    fastest = max(cells, key=lambda row: float(row[3]))
    told = next(line for line in outcome.err.splitlines() if line.startswith("fastest: "))
    assert told.startswith(f"fastest: {fastest[0]} thread") and f" {fastest[1]} us" in told
    assert ("nothing is kept" in outcome.err) != ("kept in" in outcome.err)


def test_tune_threads_refuses_what_is_no_bundle(cli: CommandLine, tmp_path: Path) -> None:
    outcome = cli("tune", "threads", tmp_path, "--most", 1)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and len(outcome.err.splitlines()) == 1
