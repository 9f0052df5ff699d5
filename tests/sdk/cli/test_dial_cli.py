"""Dials at the command line: calibrated, judged and set, and refused with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from texts import words

import skipstone
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import Calibration, DialFinding, dial_note, method_named

PROMPT = "def add(first, second):"
PNG = b"\x89PNG\r\n\x1a\n"
LOOSE = 7.2


@pytest.fixture
def cli(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """Runs commands with a cache folder of their own."""
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return cli


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "profiles"


@pytest.fixture(scope="session")
def bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    small = make_checkpoint(num_hidden_layers=1, initializer_range=0.1)
    return make_bundle(make_checkpoint(), exits="auto", drafter=small)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(words(count=1500), encoding="utf-8")
    return file


@pytest.fixture
def calibrated(bundle: Path, profiles: Path) -> Path:
    """A kept calibration of switch: 0.9 at 7.2 bits."""
    method = method_named("switch")
    note = dial_note(Model.open(bundle), method)
    found = (DialFinding(LOOSE, 40), DialFinding(9.0, 2000))
    known = Calibration(method="switch", num_tokens=4096, error_rate=0.05, tested=found)
    path = note.path(profiles)
    assert note.save(known, path)
    return path


def rows_of(table: str) -> list[dict[str, str]]:
    """Return the rows of a Markdown table by the names of its columns."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


# generate


def test_generate_takes_a_setting_of_the_dial(cli: CommandLine, bundle: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 40)
    plain, strict = cli(*command, "--decode", "plain"), cli(*command, "--decode", "switch", "--dial", 0)
    loose = cli(*command, "--decode", "switch", "--dial", LOOSE)
    assert strict.out == plain.out != loose.out
    assert "approximate: all tokens as the full model's\n" in strict.err
    assert "approximate: switch at 7.2 bits of entropy: agreement not calibrated\n" in loose.err
    made = skipstone.load(bundle).generate(PROMPT, max_new_tokens=40, decode="switch", dial=LOOSE)
    assert made.text + "\n" == loose.out


def test_an_agreement_sets_the_dial_by_the_kept_calibration(cli: CommandLine, bundle: Path, calibrated: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 40, "--decode", "switch")
    found = cli(*command, "--min-agreement", 0.9)
    assert found.out == cli(*command, "--dial", LOOSE).out
    promise = "90.0 % of tokens as the full model's, calibrated on 4096 tokens"
    assert f"approximate: {promise}; switch at 7.2 (entropy in bits)\n" in found.err
    strict = cli(*command, "--min-agreement", 0.999)
    assert strict.out == cli(*command, "--dial", 0).out
    assert "no setting of switch keeps that, so 0 is used: plain\n" in strict.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decode", "switch"), "decode switch is approximate; say how close it must stay"),
        (("--decode", "switch", "--dial", -1), "the dial of switch, entropy in bits, must be at least 0, got -1"),
        (
            ("--decode", "switch", "--dial", 1, "--calibration", "missing.json"),
            "the calibration missing.json says what dial of switch keeps a min_agreement, and the dial is given",
        ),
        (("--decode", "plain", "--dial", 1), "are for approximate decoding only, got decode plain"),
        (("--decode", "switch", "--dial", 1, "--min-agreement", 0.9), "both set the dial of switch; give one of them"),
        (
            ("--decode", "cascade", "--min-agreement", 0.9),
            "and small model; run `skipstone tune dial BUNDLE --decode cascade --text FILE`",
        ),
    ],
)
def test_generate_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, arguments: tuple[object, ...], message: str
) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


# tune and inspect


def test_tune_calibrates_a_dial_and_keeps_what_generate_and_inspect_use(
    cli: CommandLine, bundle: Path, profiles: Path, text_file: Path
) -> None:
    assert "calibrated dials" not in cli("inspect", bundle).out
    command = ("tune", "dial", bundle, "--decode", "skipdecode", "--text", text_file, "--max-tokens", 2000)
    outcome = cli(*command)
    title, sure, *table = outcome.out.splitlines()
    assert title == "approximate decoding: skipdecode, dial: the share of the layers that run at the end"
    assert re.match(
        r"calibrated on 2048 tokens at each setting, which tell as much as \d+ independent ones; "
        "each min agreement holds with a chance of 95% on texts like this one",
        sure,
    )
    rows = rows_of("\n".join(table))
    assert [row["dial"] for row in rows[:3]] == ["1", "0.95", "0.9"]
    assert rows[0]["agreement"] == "plain decoding" and rows[-1]["used for min agreement"] == "-"
    assert all(re.fullmatch(r"\d+\.\d\d%", row["agreement"]) for row in rows[1:])
    used = [one for row in rows for one in row["used for min agreement"].split(", ") if one != "-"]
    assert len(used) == 14 and len({*used}) == 14, "each agreement has one setting"
    (file,) = profiles.glob("dial-*")
    assert outcome.err == f"kept in {file}\n"
    told = cli("generate", bundle, "-p", PROMPT, "-n", 2, "--decode", "skipdecode", "--min-agreement", 0.8).err
    assert "80.0 % of tokens as the full model's, calibrated on 2048 tokens; skipdecode at " in told
    assert re.search(
        r"^calibrated dials +skipdecode: .* at 98% agreement, on 2048 tokens$", cli("inspect", bundle).out, re.M
    )


def test_the_figures_as_json_hold_what_was_found(cli: CommandLine, bundle: Path, text_file: Path) -> None:
    command = ("tune", "dial", bundle, "--decode", "skipdecode", "--text", text_file, "--max-tokens", 2000, "--json")
    told = json.loads(cli(*command).out)
    assert (told["approximate"], told["num_tokens"], told["error_rate"]) == ("skipdecode", 2048, 0.05)
    plain, *rows = told["settings"]
    assert (plain["setting"], plain["agreement"], plain["num_wrong"]) == (1.0, 1.0, 0)
    assert all(row["agreement"] == 1 - row["num_wrong"] / 2048 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--decode", "self"),
            "--decode takes big-little, active, adadec, "
            "adaptive, cascade, cautious, momentum, skipdecode, switch here, "
            "got self",
        ),
        (
            ("--decode", "exit"),
            "the dial of exit is the agreement itself; calibrate its exits with",
        ),
        (("--decode", "switch", "--seconds", "1"), "No such option: --seconds"),
        (("--decode", "switch", "--text", "missing.txt"), "missing.txt cannot be read"),
        (("--decode", "switch", "--text", "short.txt"), "a calibration wants at least 2000"),
        (
            ("--decode", "switch", "--max-tokens", "10"),
            "a calibration wants at least 2000 tokens at each setting, got 10",
        ),
        (
            ("--decode", "skipdecode", "--drafter", "x"),
            "--draft-model names a small model, which --decode skipdecode does",
        ),
        (("--max-tokens", "10"), "Missing option '--decode'"),
    ],
)
def test_tune_refuses_what_makes_no_sense(
    cli: CommandLine,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("def add(first, second):\n" * 20)
    outcome = cli("tune", "dial", bundle, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


# eval


def test_eval_judges_settings_of_the_dial(cli: CommandLine, bundle: Path, text_file: Path, tmp_path: Path) -> None:
    command = ("eval", "method", bundle, "--text", text_file, "--decode", "switch", "--max-tokens", 64)
    outcome = cli(*command, "--dial", f"0,{LOOSE}", "--dial", 30, "--plot", tmp_path / "p.png")
    assert (outcome.code, outcome.err) == (0, "")
    title, table = outcome.out.split("\n", 1)
    assert title == "approximate decoding: switch, 64 tokens of its own, dial: entropy in bits"
    plain, *others = rows_of(table)
    assert [row["dial"] for row in (plain, *others)] == ["0", "7.2", "30"]
    assert [plain[name] for name in ("by less", "agreement", "KL", "same text")] == [
        "0.0%",
        "100.00%",
        "0.0000",
        "100%",
    ]
    assert others[0]["agreement"] != "100.00%" and others[1]["same text"] == "0%"
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)


def test_eval_judges_what_keeps_an_agreement(cli: CommandLine, bundle: Path, text_file: Path, calibrated: Path) -> None:
    command = ("eval", "method", bundle, "--text", text_file, "--decode", "switch", "--max-tokens", 64)
    agreements = ("--min-agreement", 0.999, "--min-agreement", 0.9)
    rows = rows_of(cli(*command, *agreements).out.split("\n", 1)[1])
    assert [(row["min agreement"], row["dial"]) for row in rows] == [("0.999", "0"), ("0.9", "7.2")]
    told = json.loads(cli(*command, *agreements, "--calibration", calibrated, "--json").out)
    assert told["approximate"] == "switch"
    assert [(row["min_agreement"], row["setting"]) for row in told["settings"]] == [(0.999, 0.0), (0.9, 7.2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dial", "1"), "Missing option '--decode'"),
        (("--decode", "switch", "--dial", "a,b"), "--dial takes numbers, such as 0.5 or 0.5,1,2; got a,b"),
        (("--decode", "switch", "--dial", "-1"), "the dial of switch, entropy in bits, must be at least 0"),
        (("--decode", "switch", "--dial", "1", "--min-agreement", "0.9"), "both set the dial of switch"),
        (("--decode", "switch", "--dial", "1", "--calibration", "x"), "says which setting keeps an agreement; add"),
        (("--decode", "switch", "--min-agreement", "0.9"), "switch is not calibrated for this bundle"),
        (
            ("--decode", "skipdecode", "--drafter", "x"),
            "--draft-model names a small model, which --decode skipdecode does",
        ),
    ],
)
def test_eval_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, text_file: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli("eval", "method", bundle, "--text", text_file, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


def test_eval_judges_what_exits_write_beside_how_they_fare_along_the_text(
    cli: CommandLine, bundle: Path, text_file: Path
) -> None:
    assert cli("tune", "exits", bundle, "--text", text_file).code == 0
    own = cli("eval", "method", bundle, "--text", text_file, "--decode", "exit", "--own", "--max-tokens", 64, "--json")
    (first, *others) = json.loads(own.out)["settings"]
    assert (first["setting"], first["agreement"], first["by_less"]) == (1, 1, 0) and len(others) == 4
    along = cli("eval", "method", bundle, "--text", text_file, "--decode", "exit", "--max-tokens", 64, "--json")
    assert "min_agreement" in json.loads(along.out)["settings"][0]
    refused = cli("eval", "method", bundle, "--text", text_file, "--decode", "switch", "--own")
    assert refused.code == 2 and "--own is for --decode exit" in refused.err
