"""Approximate decoding at the command line: calibrated once, named approximate everywhere, refused with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, without_colours
from conftest import MakeBundle

import skipstone
from skipstone.cli.drafts import COLOURS, DepthPainter, stats_table
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.costs import ExitTimes
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Piece
from skipstone.runtime.methods.depth import (
    ExitLevels,
    ExitThresholds,
    Level,
    exits_note,
    text_windows,
)
from skipstone.runtime.methods.depth import exit as policy

PROMPT = "def add(first, second):"
PNG = b"\x89PNG\r\n\x1a\n"
APPROXIMATE = "90 % of tokens as the full model's, calibrated on 4321 tokens"


@pytest.fixture
def cli(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """Runs commands with a cache folder of their own."""
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return cli


@pytest.fixture(scope="session")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint, exits="auto")


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "profiles"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    words = np.random.default_rng(0).choice(["def", "add", "self", "tokens", "(", "):", "\n", "fox"], size=2500)
    file = tmp_path / "text.txt"
    file.write_text(" ".join(words), encoding="utf-8")
    return file


@pytest.fixture
def calibrated(bundle: Path, profiles: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kept calibration by which tokens of the exit after 2 of 4 layers leave often, and which pays here."""
    manifest = Manifest.from_json((bundle / "skipstone.json").read_text())
    levels = (
        Level(agreement=0.9, metric="gap", threshold=0.02, share=0.8),
        Level(agreement=0.98, metric="gap", threshold=None, share=0.0),
    )
    known = ExitThresholds(
        num_tokens=4321,
        error_rate=0.05,
        exits=(ExitLevels(num_layers=2, agreement=0.712, levels=levels),),
    )
    path = exits_note(manifest).path(profiles)
    assert exits_note(manifest).save(known, path)
    times = ExitTimes(10.0, {2: 1.0}, {2: (1.0, 1.0, 1.0)})
    monkeypatch.setattr(policy, "exit_times", lambda model: times)
    return path


def exit_method(agreement: float = 0.9) -> tuple[object, ...]:
    return ("--decode", "exit", "--min-agreement", agreement)


# generate


def test_an_approximate_text_is_named_so_in_both_forms(cli: CommandLine, bundle: Path, calibrated: Path) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 40, "--stats", *exit_method())
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert lines[1] == f"approximate: {APPROXIMATE}"
    made = [re.fullmatch(r"(\d) layers +(\d+) tokens made \((\d+)%\)", line) for line in lines[3:5]]
    counts = {int(one[1]): int(one[2]) for one in made if one}
    assert set(counts) == {2, 4} and sum(counts.values()) == 40
    told = json.loads(cli("generate", bundle, "-p", PROMPT, "-n", 40, "--json", *exit_method()).out)
    assert told["text"] + "\n" == outcome.out
    assert told["stats"]["approximate"] == APPROXIMATE
    assert {int(depth): count for depth, count in told["stats"]["depths"].items()} == counts


def test_a_text_says_that_no_exit_pays_here(
    cli: CommandLine, bundle: Path, calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = ExitTimes(1.0, {2: 1.0}, {2: (1.0, 2.0, 9.0)})
    monkeypatch.setattr(policy, "exit_times", lambda model: dear)
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 8, *exit_method())
    assert f"approximate: {APPROXIMATE}; {policy.NO_EXIT_PAYS}\n" in outcome.err


def test_a_lossless_text_has_no_such_name(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, "--decode", "plain", "--stats")
    assert "approximate" not in outcome.err and "layers" not in outcome.err
    stats = json.loads(cli("generate", bundle, "-p", PROMPT, "-n", 4, "--decode", "plain", "--json").out)["stats"]
    assert not {"approximate", "depths"} & set(stats)


def test_at_full_agreement_and_where_no_exit_keeps_it_the_text_is_plain_decodings(
    cli: CommandLine, bundle: Path, calibrated: Path
) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 30)
    plain = cli(*command, "--decode", "plain").out
    full, strict = cli(*command, *exit_method(1)), cli(*command, *exit_method(0.98))
    assert full.out == strict.out == plain
    assert "approximate: all tokens as the full model's: no exit is used\n" in full.err
    assert "no exit keeps that, so none is used\n" in strict.err
    assert cli(*command, *exit_method()).out != plain


def test_samples_name_it_too_and_quiet_says_nothing(cli: CommandLine, bundle: Path, calibrated: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 6, "--temperature", 1, "--samples", 2, *exit_method())
    assert cli(*command).err.count(f"approximate: {APPROXIMATE}") == 2
    assert cli(*command, "-q").err == ""


def test_python_gets_the_same_text_and_the_depth_of_each_piece(
    cli: CommandLine, bundle: Path, calibrated: Path
) -> None:
    model, options = skipstone.load(bundle), {"decode": "exit", "min_agreement": 0.9, "max_new_tokens": 30}
    pieces = list(model.stream(PROMPT, **options))
    assert {piece.depth for piece in pieces} == {2, 4}
    made = model.generate(PROMPT, **options)
    assert made.stats.depths == {depth: sum(piece.depth == depth for piece in pieces) for depth in (2, 4)}
    assert made.text == "".join(piece.text for piece in pieces)
    assert cli("generate", bundle, "-p", PROMPT, "-n", 30, *exit_method()).out == made.text + "\n"
    alone = [model.generate(prompt, **options) for prompt in (PROMPT, "class")]
    assert [one.token_ids for one in model.generate([PROMPT, "class"], **options)] == [one.token_ids for one in alone]


def test_a_stop_string_ends_an_approximate_text(bundle: Path, cli: CommandLine, calibrated: Path) -> None:
    model, options = skipstone.load(bundle), {"decode": "exit", "min_agreement": 0.9, "max_new_tokens": 40}
    whole = model.generate(PROMPT, **options).text
    stop = whole[20:23]
    assert model.generate(PROMPT, stop=stop, **options).text == whole[: whole.find(stop)]


def test_depths_are_shown_in_colours(
    cli: CommandLine, bundle: Path, calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cli("generate", bundle, "-p", PROMPT, "-n", 30, *exit_method()).out
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = cli("generate", bundle, "-p", PROMPT, "-n", 30, "--show-depth", *exit_method())
    assert shown.out != plain and without_colours(shown.out) == plain
    assert "made by \033[32m2 layers\033[0m, the rest by all 4 layers" in shown.err


def test_tokens_have_the_colour_of_their_depth_and_those_of_all_layers_have_none(
    tiny_stages: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")

    def piece(text: str, depth: int | None) -> Piece:
        return Piece(text=text, token_ids=tuple(tiny_stages.tokenizer.encode(text)), depth=depth)

    painter = DepthPainter(tiny_stages, last_id=tiny_stages.tokenizer.encode(" ")[-1])
    first, second = (f"\033[{colour}m" for colour in COLOURS[:2])
    assert painter.legend() == "made by all 4 layers"
    assert [painter.paint(piece("0", depth)) for depth in (None, 4, 3, 1, 3)] == [
        *("0", "0", f"{first}0\033[0m", f"{second}0\033[0m", f"{first}0\033[0m")
    ]
    assert painter.legend() == f"made by {first}3 layers\033[0m, {second}1 layer\033[0m, the rest by all 4 layers"
    little = DepthPainter(tiny_stages, last_id=5, little=True)
    little.paint(piece("0", 2))
    assert little.legend() == f"made by {first}the small model (2 layers)\033[0m, the rest by all 4 layers"
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(ConfigError, match="--show-depth needs a terminal with colours"):
        DepthPainter(tiny_stages, last_id=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decode", "exit"), "decode exit is approximate; say how close it must stay: min_agreement, such as 0.98"),
        (exit_method(0.3), "min_agreement must lie between 0.8 and 1, got 0.3"),
        (exit_method(1.5), "min_agreement must lie between 0.8 and 1, got 1.5"),
        (exit_method(), "the exits of this bundle are not calibrated; run `skipstone tune exits BUNDLE --text FILE`"),
        (("--min-agreement", "0.9"), "are for approximate decoding only, got decode auto"),
        (("--calibration", "x", "--decode", "plain"), "are for approximate decoding only, got decode plain"),
        ((*exit_method(), "--calibration", "missing.json"), "missing.json cannot be read: No such file"),
        ((*exit_method(), "--verify", "rejection"), "exit has no drafts that rejection could verify"),
        (
            ("--show-depth", "--decode", "self"),
            "--show-depth colours what part of the layers made; --decode self uses all",
        ),
        (("--show-depth", "--json", *exit_method()), "--show-depth is for one text on the terminal; leave --json out"),
        (("--show-depth", "--show-drafts", *exit_method()), "on the terminal; leave --show-drafts out"),
        (("--show-depth", "--samples", "2", *exit_method()), "on the terminal; leave --samples out"),
    ],
)
def test_generate_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, arguments: tuple[object, ...], message: str
) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_calibration_of_another_precision_is_refused_by_name(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle, calibrated: Path
) -> None:
    other = make_bundle(tiny_checkpoint, precision="int8", exits="auto")
    outcome = cli("generate", other, "-p", PROMPT, *exit_method(), "--calibration", calibrated)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{calibrated} was made for precision fp32, the bundle has int8; make one for this bundle" in outcome.err
    assert "not calibrated" in cli("generate", other, "-p", PROMPT, *exit_method()).err


def test_a_bundle_without_exits_is_refused(cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    whole = make_bundle(tiny_checkpoint)
    for command in (("generate", whole, "-p", PROMPT, *exit_method()), ("tune", "exits", whole)):
        outcome = cli(*command)
        assert (outcome.code, outcome.out) == (2, "")
        assert "the bundle has no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`" in outcome.err


# tune and inspect


def test_tune_calibrates_and_keeps_what_generate_and_inspect_use(
    cli: CommandLine, bundle: Path, profiles: Path, text_file: Path
) -> None:
    assert re.search(r"calibrated +no; `skipstone tune exits BUNDLE", cli("inspect", bundle).out)
    outcome = cli("tune", "exits", bundle, "--text", text_file)
    assert outcome.code == 0
    title, head, alone, *levels = outcome.out.splitlines()
    assert re.fullmatch(r"approximate decoding, calibrated on \d+ tokens; each holds with a chance of 95% .*", title)
    assert re.split(r" {2,}", head.strip()) == ["agreement", "after 1 layers", "after 2 layers", "after 3 layers"]
    assert re.fullmatch(r"exit alone( +[\d.]+ % agree){3}", alone)
    for line in levels:
        assert re.fullmatch(r" *[\d.]+ %( +(never|\d+% leave, (gap|top|entropy|saturation) > [01]\.\d{3})){3}", line)
    (file,) = profiles.iterdir()
    assert outcome.err == f"kept in {file}\n"
    told = json.loads(cli("tune", "exits", bundle, "--text", text_file, "--json").out)
    kept = json.loads(file.read_text())
    assert told == {"bundle": str(bundle), **kept["made_for"], **kept["finding"]}
    assert (
        f"calibrated on {told['num_tokens']} tokens" in cli("generate", bundle, "-p", "x", "-n", 2, *exit_method()).err
    )
    assert re.search(
        r"^calibrated +after 1 layers: alone as the full model on [\d.]+ %", cli("inspect", bundle).out, re.M
    )


def test_tune_takes_the_prompts_of_the_suite_where_no_text_is_given(cli: CommandLine, bundle: Path) -> None:
    told = json.loads(cli("tune", "exits", bundle, "--json").out)
    assert told["num_tokens"] > 2000 and told["bundle"] == str(bundle)


def test_tune_says_when_the_calibration_cannot_be_kept(
    cli: CommandLine, bundle: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "taken"))
    outcome = cli("tune", "exits", bundle, "--text", text_file)
    assert outcome.code == 0 and "agreement" in outcome.out
    assert re.fullmatch(r".*\.json cannot be written, so the calibration is not kept; SKIPSTONE.*\n", outcome.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seconds", "1"), "No such option: --seconds"),
        (("--text", "missing.txt"), "missing.txt cannot be read"),
        (("--text", "short.txt"), "tokens; a calibration wants at least 2000"),
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
    outcome = cli("tune", "exits", bundle, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


def test_inspect_tells_what_each_exit_is_worth(cli: CommandLine, bundle: Path, calibrated: Path) -> None:
    lines = cli("inspect", bundle).out.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("calibrated")]
    assert lines[first].endswith(
        "after 2 layers: alone as the full model on 71.2 % of tokens, no token leaves at 98% agreement"
    )
    assert lines[first + 1].strip() == "on 4321 tokens, sure to 95%"
    assert "calibrated" in json.loads(cli("inspect", bundle, "--json").out)


# eval


def test_eval_shows_quality_beside_speed_for_each_setting(
    cli: CommandLine, bundle: Path, calibrated: Path, text_file: Path, tmp_path: Path
) -> None:
    outcome = cli(
        "eval",
        "method",
        bundle,
        "--text",
        text_file,
        "--decode",
        "exit",
        "--max-tokens",
        300,
        "--plot",
        tmp_path / "p.png",
    )
    assert (outcome.code, outcome.err) == (0, "")
    title, head, _, *rows = outcome.out.splitlines()
    assert title == "approximate decoding: exit, 300 tokens of the text"
    names = [cell.strip() for cell in head.strip("|").split("|")]
    table = [dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]
    assert [row["min agreement"] for row in table] == ["1", "0.99", "0.98", "0.95", "0.9"]
    assert [row["exit"] for row in table] == ["none"] * 4 + ["2 layers"]
    for row in table[:4]:
        assert (row["leave"], row["agreement"], row["KL"], row["same text"]) == ("0.0%", "100.00%", "0.0000", "100%")
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)


def test_eval_judges_what_decoding_would_do(
    cli: CommandLine, bundle: Path, calibrated: Path, text_file: Path, tiny_stages: Model
) -> None:
    """The slow twin: exit and full model after every prefix of the text, in float64."""
    from skipstone.runtime.engine import Draft

    told = json.loads(
        cli("eval", "method", bundle, "--text", text_file, "--max-tokens", 70, "--json", *exit_method(0.9)).out
    )
    (row,) = told["settings"]
    assert told["approximate"] == "exit" and row["exit_layers"] == 2
    text = text_windows(tiny_stages, [text_file.read_text()])[0][:70]
    early, full = tiny_stages.new_sequence(), tiny_stages.new_sequence()
    leave, agree, nats = [], [], []
    early.append(text)
    for end, token_id in enumerate(text, start=1):
        full.append([token_id])
        used, wanted = law(early.peek(text[:end], num_stages=2)), law(full.extend(Draft.empty())[0])
        best = np.sort(used)[-2:]
        leave.append(best[1] - best[0] > 0.02)
        agree.append(not leave[-1] or used.argmax() == wanted.argmax())
        nats.append(float((wanted * np.log(wanted / used)).sum()) if leave[-1] else 0.0)
    assert 0 < np.mean(leave) < 1
    assert (row["early"], row["agreement"]) == pytest.approx((np.mean(leave), np.mean(agree)))
    assert row["kl"] == pytest.approx(np.mean(nats), rel=1e-3)
    assert row["tokens_per_s"] > 0 and 0 <= row["exact_match"] <= 1


def law(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--decode", "self"),
            "--decode takes big-little, active, adadec, adaptive, cascade, cautious, exit, momentum, skipdecode, "
            "switch here, got self",
        ),
        (("--min-agreement", "0.9"), "Missing option '--decode'"),
        (("--decode", "exit", "--min-agreement", "0.1"), "min_agreement must lie between 0.8 and 1"),
        (("--decode", "exit", "--plot", "x.pdf"), "a picture is a .png or .svg file"),
        (("--decode", "exit"), "the exits of this bundle are not calibrated"),
        (("--decode", "exit", "--min-agreement", "1", "--max-tokens", "20"), "at least 128 tokens are wanted"),
    ],
)
def test_eval_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, text_file: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli("eval", "method", bundle, "--text", text_file, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err


def test_the_figures_without_depths_have_no_line_for_them() -> None:
    from dataclasses import replace

    from test_cli_drafts import STATS

    assert "layers" not in stats_table(STATS)
    shown = stats_table(replace(STATS, depths={2: 30, 4: 70}, approximate="x")).splitlines()
    assert shown[1:3] == ["2 layers     30 tokens made (30%)", "4 layers     70 tokens made (70%)"]
