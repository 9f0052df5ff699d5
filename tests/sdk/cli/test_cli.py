"""Every command: results on standard output, remarks on standard error, and the same answers as from Python."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from conftest import CORPUS, MakeBundle, MakeCheckpoint
from model_calls import watching

import skipstone
from skipstone.api import plan
from skipstone.check import Clause
from skipstone.cli import demo
from skipstone.cli.terminal import notes, print_columns, write
from skipstone.devices import catalog
from skipstone.errors import OutputError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.bundle.formats import ADDED_FIELDS

COMMANDS = (
    *("export", "generate", "suggest", "choose", "chat", "inspect", "devices"),
    *("check-target", "train-exits", "train-experts", "ngrams", "demo"),
)
GROUPS = ("tune", "bench", "eval", "cache")
PROMPT = "def add(first, second):"
TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
PEBBLE = Path(skipstone.__file__).parent / "models" / "pebble" / "model.safetensors"
needs_pebble = pytest.mark.skipif(not PEBBLE.is_file(), reason=f"{PEBBLE} is not there")


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


@pytest.fixture(scope="module")
def chatty_bundle(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("chatty") / "checkpoint")
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    return make_bundle(checkpoint)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(CORPUS), encoding="utf-8")
    return file


# The program


def test_the_version_is_that_of_the_package(cli: CommandLine) -> None:
    assert cli("--version").out == skipstone.__version__ + "\n"


def test_without_arguments_the_program_shows_its_help(cli: CommandLine) -> None:
    outcome = cli()
    assert outcome == cli("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert [name for name in (*COMMANDS, *GROUPS) if not re.search(rf"^  {name} +[A-Z].*\.$", outcome.out, re.M)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_ends_with_examples_that_it_understands(cli: CommandLine, command: str) -> None:
    outcome = cli(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 100
    examples = re.findall(r"^    skipstone (\S+)(.*)", outcome.out.partition("Example")[2], re.M)
    assert examples
    assert {name for name, _ in examples} == {command}
    shown = set(re.findall(r"(?<!\S)--?[\w-]+", outcome.out.partition("Options:")[2].partition("Example")[0]))
    assert {option for _, rest in examples for option in re.findall(r"(?<= )--?[a-z][\w-]*", rest)} <= shown


def test_traceback_shows_where_an_error_of_ours_came_from(cli: CommandLine, tmp_path: Path) -> None:
    with pytest.raises(skipstone.SkipstoneError):
        cli.start("--traceback", "inspect", tmp_path / "missing")


# generate


def test_generate_writes_the_text_that_python_gets_and_its_speed_beside_it(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 12)
    assert outcome.code == 0
    assert outcome.out == skipstone.load(bundle).generate(PROMPT, max_new_tokens=12).text + "\n"
    assert re.fullmatch(r"\d+ prompt tokens at \d+/s, \d+ new at [\d.]+/s, peak \d+ MB\n", outcome.err)


def test_generate_json_holds_the_text_its_tokens_and_the_cost(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 12, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    wanted = skipstone.load(bundle).generate(PROMPT, max_new_tokens=12)
    assert set(result) == {"text", "token_ids", "prompt_tokens", "finish_reason", "stats"}
    assert (result["text"], tuple(result["token_ids"])) == (wanted.text, wanted.token_ids)
    assert (result["prompt_tokens"], result["finish_reason"]) == (wanted.prompt_tokens, wanted.finish_reason)
    stats = result["stats"]
    assert set(stats) == {
        *("prompt_tokens", "new_tokens", "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s"),
        *("model_calls", "tokens_per_call", "drafters", "peak_memory_bytes"),
        *("draft_s", "model_s", "accept_s", "other_s", "same_text", "threads", "measuring_s"),
    }
    assert stats["new_tokens"] == len(result["token_ids"])
    assert stats["tokens_per_call"] == stats["new_tokens"] / stats["model_calls"]
    assert stats["same_text"] == wanted.stats.same_text
    assert (
        min(value for name, value in stats.items() if name not in ("drafters", "same_text", "threads", "measuring_s"))
        > 0
    )


def test_generate_reads_the_prompt_from_standard_input(cli: CommandLine, bundle: Path) -> None:
    given = cli("generate", bundle, "-p", PROMPT + "\n", "-n", 8).out
    assert cli("generate", bundle, "-n", 8, stdin=PROMPT + "\n").out == given


def test_quiet_leaves_standard_error_empty(cli: CommandLine, bundle: Path) -> None:
    loud, quiet = cli("generate", bundle, "-p", PROMPT, "-n", 4), cli("generate", bundle, "-p", PROMPT, "-n", 4, "-q")
    assert (quiet.out, quiet.err) == (loud.out, "")


def test_a_text_ends_before_the_first_of_several_stop_strings(cli: CommandLine, bundle: Path) -> None:
    text = skipstone.load(bundle).generate(PROMPT, max_new_tokens=40).text
    late, early = text[20:22], text[9:11]
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 40, "--stop", late, "--stop", early, "--json")
    result = json.loads(outcome.out)
    assert result["text"] == text[: min(text.find(late), text.find(early))] != ""
    assert result["finish_reason"] == "stop"


def test_the_same_seed_gives_the_same_text_and_another_seed_another(cli: CommandLine, bundle: Path) -> None:
    texts = [
        cli("generate", bundle, "-p", PROMPT, "-n", 16, "--temperature", 1.5, "--top-p", 0.95, "--seed", seed).out
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_logprobs_give_the_likeliest_tokens_of_each_position(cli: CommandLine, bundle: Path) -> None:
    result = json.loads(cli("generate", bundle, "-p", PROMPT, "-n", 6, "--logprobs", 3, "--json").out)
    assert [entry["token_id"] for entry in result["logprobs"]] == result["token_ids"]
    for entry in result["logprobs"]:
        assert entry["top"][0] == {name: value for name, value in entry.items() if name != "top"}
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["text"]
        chances = [likely["logprob"] for likely in entry["top"]]
        assert chances == sorted(chances, reverse=True)
        assert len(entry["top"]) == 3


def test_a_character_that_standard_output_cannot_show_does_not_end_the_text(bundle: Path) -> None:
    program = Path(sys.executable).parent / "skipstone"
    command = [program, "generate", bundle, "-p", PROMPT, "-n", "40"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    text = skipstone.load(bundle).generate(PROMPT, max_new_tokens=40).text
    assert not text.isascii()
    assert run.stdout == text.encode("ascii", "backslashreplace").decode() + "\n"


# generate: methods of decoding


@pytest.mark.parametrize("decode", ["auto", "plain", "ngram", "suffix,recycle", "jacobi", "lookahead"])
def test_every_method_writes_the_same_text(cli: CommandLine, bundle: Path, decode: str) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", decode, "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == skipstone.load(bundle).generate(PROMPT, max_new_tokens=24, decode="plain").text + "\n"


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_the_other_rules_keep_a_greedy_text(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle, make_checkpoint: MakeCheckpoint, rule: str
) -> None:
    pair = make_bundle(tiny_checkpoint, drafter=make_checkpoint(num_hidden_layers=1))
    command = ("generate", pair, "-p", PROMPT, "-n", 12)
    plain = cli(*command, "--decode", "plain")
    judged = (*command, "--decode", "model", "--verify", rule)
    assert cli(*judged).out == plain.out != ""
    drawn = [cli(*judged, "--temperature", 1, "--seed", 3).out for _ in range(2)]
    assert drawn[0] == drawn[1] != plain.out


@pytest.mark.parametrize("decode", ["auto", "suffix"])
def test_exact_gives_the_same_bits_with_every_method(cli: CommandLine, bundle: Path, decode: str) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 16, "--exact", "--logprobs", 2, "--json")
    exact, plain = (json.loads(cli(*command, "--decode", method).out) for method in (decode, "plain"))
    assert (exact["token_ids"], exact["logprobs"]) == (plain["token_ids"], plain["logprobs"])


def test_stats_show_what_was_guessed_and_where_the_time_went(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", "suffix", "--suffix-memory", tmp_path / "texts")
    bare = cli(*command)
    outcome = cli(*command, "--stats")
    assert outcome.out == bare.out
    speed, calls, text, suffix, parts = outcome.err.splitlines()
    assert " prompt tokens at " in speed
    assert re.fullmatch(r"\d+ model calls, \d+\.\d\d tokens each", calls)
    assert text == "text: plain decoding's, up to the last bits of float32"
    assert re.fullmatch(r"suffix +\d+ drafts, +\d+ tokens guessed, +\d+ accepted \(\d+%\)", suffix)
    assert re.fullmatch(r"ms: draft [\d.]+, model [\d.]+, accept [\d.]+, other [\d.]+", parts)
    assert (bare.code, len(bare.err.splitlines())) == (0, 1)


def test_show_drafts_colours_the_guesses(
    cli: CommandLine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    command = ("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", "suffix", "--suffix-memory", tmp_path / "texts")
    bare = cli(*command)
    outcome = cli(*command, "--show-drafts")
    assert outcome.code == 0
    assert re.sub(r"\033\[\d+m", "", outcome.out) == bare.out != outcome.out
    assert "guessed by \033[32msuffix\033[0m" in outcome.err


def test_a_suffix_memory_serves_the_next_process(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 24, "--decode", "suffix", "--json", "--suffix-memory")
    first, second, other = (
        json.loads(cli(*command, tmp_path / name).out) for name in ("texts", "texts", "new folder/others")
    )
    assert first["text"] == second["text"] == other["text"]
    assert second["stats"]["model_calls"] < first["stats"]["model_calls"] == other["stats"]["model_calls"]


def test_samples_are_the_texts_of_the_seeds_from_the_given_one_on(cli: CommandLine, bundle: Path) -> None:
    command = ("generate", bundle, "-p", PROMPT, "-n", 8, "--temperature", 1.2)
    alone = [json.loads(cli(*command, "--seed", seed, "--json").out)["text"] for seed in (5, 6, 7)]
    together = cli(*command, "--seed", 5, "--samples", 3, "--json")
    assert [sample["text"] for sample in json.loads(together.out)] == alone
    outcome = cli(*command, "--seed", 5, "--samples", 3)
    assert outcome.out == "".join(text + "\n" for text in alone)
    assert [line.partition(":")[0] for line in outcome.err.splitlines()] == ["seed 5", "seed 6", "seed 7"]
    assert cli(*command, "--seed", 5, "--samples", 3, "-q").err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decode", "magic"), "decoding method 'magic' is not known; known are plain, auto, ngram, suffix"),
        (("--decode", "ngram,ngram"), "must be given once each, got ngram,ngram"),
        (("--decode", "plain,ngram"), "stands alone"),
        (("--decode", "model"), "decoding method 'model' needs a small model, and the bundle has none"),
        (("--decode", "recycle", "--verify", "rejection"), "the rule rejection needs; use match"),
        (("--verify", "rejection"), "auto chooses by what was drafted"),
        (("--verify", "typical"), "'typical' is not one of 'match', 'rejection', 'k-seq'"),
        (("--exact", "--decode", "ngram", "--verify", "rejection"), "exact gives the bits of plain decoding"),
        (("--samples", "3"), "at temperature 0 all 3 samples are the same; set a temperature above 0"),
        (("--samples", "0"), "--samples"),
        (("--samples", "2", "--temperature", "1", "--stats"), "--stats and --show-drafts are for one text"),
        (("--json", "--stats"), "--stats and --show-drafts are for one text"),
        (("--json", "--show-drafts"), "--stats and --show-drafts are for one text"),
        (("--show-drafts",), "--show-drafts needs a terminal with colours"),
        (("--suffix-memory", "/dev/null/texts"), "/dev/null/texts cannot be used: "),
    ],
)
def test_generate_refuses_methods_that_cannot_work(
    cli: CommandLine, bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_file_that_is_no_suffix_memory_is_refused(cli: CommandLine, bundle: Path, text_file: Path) -> None:
    before = text_file.read_bytes()
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 4, "--suffix-memory", text_file)
    assert (outcome.code, outcome.out) == (2, "")
    assert "text.txt is not a suffix memory; choose another file" in outcome.err
    assert text_file.read_bytes() == before


def test_a_suffix_memory_of_another_tokenizer_is_refused(
    cli: CommandLine, bundle: Path, tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["special"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    memory = ("--decode", "suffix", "--suffix-memory", tmp_path / "texts")
    assert cli("generate", bundle, "-p", PROMPT, "-n", 4, *memory).code == 0
    outcome = cli("generate", make_bundle(other), "-p", PROMPT, "-n", 4, *memory)
    assert (outcome.code, outcome.out) == (2, "")
    assert "texts was made with another tokenizer; choose another file, or remove it" in outcome.err


# tune


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_tune_shows_what_rows_cost_and_keeps_it(cli: CommandLine, bundle: Path, cache: Path) -> None:
    outcome = cli("tune", bundle, "--seconds", 0.1)
    assert outcome.code == 0
    lines = [re.split(r" {2,}", line.strip()) for line in outcome.out.splitlines()]
    assert lines[0] == ["rows", "ms at 64", "ms at 240", "spread", "x one row", "pays from"]
    assert [line[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[1][4:] == ["1.00"]
    for rows, _, _, spread, factor, pays in lines[2:]:
        assert spread.endswith("%")
        assert float(pays.rstrip("%")) == pytest.approx(100 * (float(factor) - 1) / (int(rows) - 1), abs=2)
    (file,) = (cache / "profiles").iterdir()
    assert outcome.err == f"kept in {file}\n"


def test_tune_measures_anew_and_auto_plans_with_it(cli: CommandLine, bundle: Path, cache: Path) -> None:
    told = json.loads(cli("tune", bundle, "--seconds", 0.1, "--json").out)
    assert set(told) == {"bundle", "device", "threads", "rows", "contexts", "seconds", "spread"}
    assert (told["bundle"], told["device"], told["contexts"]) == (str(bundle), "cpu", [64, 240])
    (file,) = (cache / "profiles").iterdir()
    assert json.loads(file.read_text())["finding"] == {
        name: told[name] for name in ("rows", "contexts", "seconds", "spread")
    }
    kept = file.stat().st_ino
    assert cli("generate", bundle, "-p", PROMPT, "-n", 4, "--decode", "auto").code == 0
    assert [*(cache / "profiles").iterdir()] == [file] and file.stat().st_ino == kept, "it is not measured again"
    assert json.loads(cli("tune", bundle, "--seconds", 0.1, "--json").out)["seconds"] != told["seconds"]


def test_tune_says_when_the_curve_cannot_be_kept(
    cli: CommandLine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "taken"))
    outcome = cli("tune", bundle, "--seconds", 0.1)
    assert (outcome.code, outcome.out[:8]) == (0, "rows  ms")
    assert re.fullmatch(r".*\.json cannot be written, so the curve is not kept; SKIPSTONE_CACHE sets.*\n", outcome.err)
    assert cli("tune", bundle, "--seconds", 0.1, "-q").err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seconds", "0"), "--seconds"),
        (("--seconds", "soon"), "--seconds"),
        (("--plot", "costs.pdf"), "a picture is a .png or .svg file, got costs.pdf"),
        (("--device", "moon"), "device 'moon' is not known"),
    ],
)
def test_tune_refuses_what_makes_no_sense(
    cli: CommandLine, bundle: Path, cache: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli("tune", bundle, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err
    assert not cache.exists()


# export and inspect


def test_export_says_one_line_about_the_bundle(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "a [b] :cat:"
    outcome = cli("export", tiny_checkpoint, "-o", output, "--precision", "int8", "--exits", "1,3", "--group-size", 32)
    assert (outcome.code, outcome.out) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(output))}: int8, \d+\.\d MB, \d+\.\d s\n", outcome.err)
    manifest = Bundle.open(output).manifest
    assert (manifest.recipe["name"], manifest.exits) == ("int8", (1, 3))
    assert manifest.provenance.command.startswith("skipstone export ")


def test_export_puts_the_drafter_in_and_says_what_is_not_ideal_about_it(
    cli: CommandLine, tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    small = make_checkpoint(num_hidden_layers=1, max_position_embeddings=128)
    options = ("--precision", "int4", "--drafter", small, "--drafter-precision", "int8")
    outcome = cli("export", tiny_checkpoint, "-o", tmp_path / "out", *options)
    assert (outcome.code, outcome.out) == (0, "")
    remark, result = outcome.err.splitlines()
    assert remark == "the draft model sees 128 tokens and the target 256: in a longer text it stops drafting"
    assert re.search(r": int4, \d\.\d MB with a draft model of \d\.\d MB, \d+\.\d s$", result)
    shown = cli("inspect", tmp_path / "out", "--verify").out
    assert re.search(r"^draft model +1 layer, int8, the same tokenizer$", shown, re.M)
    facts = json.loads(cli("inspect", tmp_path / "out", "--json").out)
    draft_model_bytes = sum(file.stat().st_size for file in (tmp_path / "out" / "drafter").iterdir())
    assert facts["draft_model_size_bytes"] == draft_model_bytes
    total = Bundle.open(tmp_path / "out").manifest.total_bytes
    assert facts["weights_bytes"] + facts["draft_model_size_bytes"] + facts["other_bytes"] == total


def test_inspect_compares_the_tokenizers_of_target_and_drafter(
    cli: CommandLine, tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    small = Path(shutil.copytree(make_checkpoint(num_hidden_layers=1), tmp_path / "small"))
    tokenizer = json.loads((small / "tokenizer.json").read_text())
    for name, whose in (("the same", "the same tokenizer"), ("other", "another tokenizer")):
        tokenizer["added_tokens"][0]["special"] = whose == "the same tokenizer"
        (small / "tokenizer.json").write_text(json.dumps(tokenizer))
        cli("export", tiny_checkpoint, "-o", tmp_path / name, "--drafter", small)
        assert json.loads(cli("inspect", tmp_path / name, "--json").out)["draft_model"] == f"1 layer, int8, {whose}"
    assert json.loads(cli("inspect", tmp_path / "other" / "drafter", "--json").out)["draft_model"] == "none"


def test_a_quiet_export_says_nothing_and_replaces_by_force(
    cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for force in ((), ("--force",)):
        outcome = cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--quiet", *force)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_inspect_lists_what_the_bundle_holds_in_two_columns(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    outcome = cli("inspect", make_bundle(tiny_checkpoint, exits="auto"))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    start = lines[0].rindex(" ") + 1
    assert [line for line in lines if line[start - 1] != " " or line[start] == " "] == []
    assert lines[0].split() == ["family", "llama"]
    assert {line[start:] for line in lines} >= {"stage-00.onnx: layers 0 to 0", "stage-03.onnx: layers 3 to 3"}
    labels = {line[:start].strip() for line in lines}
    assert not labels & {"drafter size", "draft head", "exit adapters", "layers to skip"}, "there are none"
    assert str(tiny_checkpoint) in {line[start:] for line in lines}


def test_inspect_says_where_a_bundle_of_an_older_format_falls_short(
    cli: CommandLine, bundle: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    data = json.loads((old / "skipstone.json").read_text())
    kept = {
        name: value for name, value in data.items() if name not in ADDED_FIELDS[6] | ADDED_FIELDS[7] | ADDED_FIELDS[9]
    }
    (old / "skipstone.json").write_text(json.dumps(kept | {"format_version": 5}))
    said = "5, of an older version: export it again for texts that drafts do not change, and less memory"
    assert [line.split(maxsplit=1) for line in cli("inspect", old).out.splitlines() if line.startswith("format")] == [
        ["format", said]
    ]
    assert json.loads(cli("inspect", old, "--json").out)["format"] == said
    assert "format " not in cli("inspect", bundle).out


def test_inspect_verify_says_that_the_hashes_match(cli: CommandLine, bundle: Path) -> None:
    assert re.search(r"^verified +yes$", cli("inspect", bundle, "--verify").out, re.M)
    assert "verified" not in cli("inspect", bundle).out
    assert json.loads(cli("inspect", bundle, "--verify", "--json").out)["verified"] is True


def test_inspect_json_holds_the_figures_and_the_whole_manifest(cli: CommandLine, bundle: Path) -> None:
    facts = json.loads(cli("inspect", bundle, "--json").out)
    assert [name for name in facts if not re.fullmatch(r"[a-z0-9_]+", name)] == []
    assert facts["manifest"] == json.loads((bundle / "skipstone.json").read_text())
    sizes = sum(file.stat().st_size for file in bundle.iterdir() if file.name != "skipstone.json")
    assert facts["weights_bytes"] + facts["other_bytes"] == sizes
    assert facts["draft_model_size_bytes"] == 0
    assert facts["cache_bytes_per_1k_tokens"] == 1000 * 4 * 2 * 2 * 16 * 4  # layers, key and value, heads, size, fp32
    assert facts["estimated_memory_bytes"] > sizes
    memory = facts["memory"]["fp32"]
    assert memory["cache_bytes"] == facts["manifest"]["context_length"] * 4 * 2 * 2 * 16 * 4
    assert memory["total_bytes"] == sum(memory[f"{part}_bytes"] for part in ("weights", "process", "cache"))
    assert memory["total_bytes"] == facts["estimated_memory_bytes"]


def test_inspect_tells_the_memory_of_each_type_of_cache_in_aligned_columns(cli: CommandLine, bundle: Path) -> None:
    lines = cli("inspect", bundle).out.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("memory ")]
    head, values = lines[start : start + 2]
    assert re.search(r"cache +weights +process +tokens +their cache +together +of 256 tokens$", head)
    assert re.search(r"^ +fp32  +\d+\.\d MB +80\.0 MB +256 +0\.3 MB +\d+\.\d MB +0\.3 MB$", values)
    assert len(head) == len(values)


# devices, bench, eval


def test_devices_tells_of_each_what_it_can_do_or_why_not(cli: CommandLine) -> None:
    outcome = cli("devices")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    for device in catalog():
        (line,) = [line for line in lines if line.startswith(f"{device.name} ")]
        assert (str(device.why) if device.why else f"{device.provider}  ") in line
    assert re.search(
        r"^cpu +CPUExecutionProvider +\d+ threads? +\d+\.\d of \d+\.\d GB free$", outcome.out, re.MULTILINE
    )
    assert re.search(r"^several-rows +yes .*nothing is drafted: every call takes one row$", outcome.out, re.MULTILINE)
    assert json.loads(cli("devices", "--json").out)[0]["name"] == "cpu"


def test_auto_falls_back_to_the_processor_and_says_so_in_a_line(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("generate", bundle, "-p", PROMPT, "-n", 2, "--device", "auto", "--decode", "plain")
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if "device auto takes" in line]
    assert line.startswith(("skipstone: device auto takes cpu", "device auto takes "))


def test_devices_can_be_checked_by_the_contract(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    clauses = [Clause("plain", "ok", "logits within 0"), Clause("tree", "refused", "no masks")]
    monkeypatch.setattr("skipstone.device_check.check_contract", lambda device: iter(clauses))
    outcome = cli("devices", "--check", "cpu")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == ["plain       ok       logits within 0", "tree        refused  no masks"]
    clauses.append(Clause("fork", "failed", "rows were lost"))
    outcome = cli("devices", "--check", "cpu", "--json")
    assert (outcome.code, json.loads(outcome.out)[2]["verdict"]) == (2, "failed")
    assert "device cpu breaks 1 of 3 clauses: fork" in outcome.err
    assert "is not known; did you mean cpu?" in cli("devices", "--check", "cpus").err


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_bench_prints_one_record_in_three_forms(cli: CommandLine, bundle: Path, form: str) -> None:
    outcome = cli("bench", bundle, "--prompt-tokens", 8, "--new-tokens", 4, "--runs", 1, "-o", form)
    assert (outcome.code, outcome.err) == (0, "")
    record = read_record(outcome.out, form)
    assert {str(record[name]) for name in ("prompt_tokens", "new_tokens", "runs")} == {"8", "4", "1"}
    assert (record["bundle"], record["precision"], record["device"]) == (str(bundle), "fp32", "cpu")
    assert min(float(value) for name, value in record.items() if name.endswith(("_s", "_ms", "_bytes"))) > 0
    assert record["command"].startswith(f"skipstone bench {bundle}")


def read_record(text: str, form: str) -> dict[str, Any]:
    if form == "json":
        record: dict[str, Any] = json.loads(text)
        return record
    if form == "csv":
        (row,) = csv.DictReader(io.StringIO(text))
        return row
    assert len({len(line) for line in text.splitlines()}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[0] == ["measure", "value"]
    return dict(cells[2:])


@pytest.fixture(scope="module")
def long_bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    """Has room for the prompts of a suite, byte by byte."""
    return make_bundle(make_checkpoint(max_position_embeddings=4096))


SMALL = ("--new-tokens", 2, "--runs", 1)


def test_bench_compares_methods_on_a_suite_in_tables(cli: CommandLine, long_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "ratios.png"
    outcome = cli("bench", "suite", long_bundle, "--decode", "ngram+suffix", *SMALL, "--plot", picture)
    assert (outcome.code, outcome.err) == (0, "")
    setting, speed, guesses, same_text = outcome.out.split("\n\n")
    assert read_record(setting + "\n", "md")["methods"] == "plain, ngram+suffix"
    categories = ["completion", "repetitive code", "edit", "table", "long context", "noise"]
    for table, more in (
        (speed, ["geometric mean without noise", "geometric mean with noise"]),
        (guesses, []),
        (same_text, []),
    ):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        assert rows[0][1:3] == ["plain", "ngram+suffix"]
        assert [row[0] for row in rows[2:]] == categories + more
        assert len({len(line) for line in table.splitlines()}) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bench_gives_the_same_comparison_to_other_programs(cli: CommandLine, long_bundle: Path) -> None:
    command = ("bench", "suite", long_bundle, "--decode", "plain", *SMALL, "-o")
    result = json.loads(cli(*command, "json").out)
    assert result["command"].startswith(f"skipstone bench suite {long_bundle}")
    assert (result["methods"], len(result["runs"]), len(result["cells"])) == (["plain"], 20, 6)
    rows = [*csv.DictReader(io.StringIO(cli(*command, "csv").out))]
    assert [row["category"] for row in rows] == [
        *result["categories"],
        *("geometric mean without noise", "geometric mean with noise"),
    ]
    assert {(row["method"], row["ratio"], row["new_tokens"]) for row in rows} == {("plain", "1.0", "2")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("speed", "--decode", "ngram"), "No such option: --decode"),
        (
            ("suite", "--decode", "ngram+model,exit"),
            "--decode exit is approximate, which generate and eval run; bench takes auto, plain and drafters",
        ),
        (("replay", "--text", "texts.jsonl", "--decode", "switch"), "--decode switch is approximate"),
        (("speed", "--plot", "out.png"), "No such option: --plot"),
        (("suite", "--prompt-tokens", 9), "No such option: --prompt-tokens"),
        (("suite", "--suite", "prose"), "suite 'prose' is not known; known are code"),
        (("suite", "--decode", "ngram,"), "decoding method '' is not known"),
        (("suite", "--plot", "out.pdf"), "a picture is a .png or .svg file, got out.pdf"),
        (("suite", "--new-tokens", 250), "the model's context has 256; make fewer new tokens"),
    ],
)
def test_bench_refuses_options_that_do_not_go_together(
    cli: CommandLine, bundle: Path, arguments: tuple[object, ...], message: str
) -> None:
    command, *options = arguments
    outcome = cli("bench", command, bundle, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("skipstone: ") and message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_bundle_equals_itself(cli: CommandLine, bundle: Path, text_file: Path) -> None:
    outcome = cli("eval", bundle, "--text", text_file, "--reference", bundle, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert result["num_bytes"] == text_file.stat().st_size
    assert result["kl"] == pytest.approx(0, abs=1e-9)
    assert result["top1_agreement"] == 1
    assert result["perplexity"] > 1


def test_eval_shows_only_what_was_measured(cli: CommandLine, bundle: Path, text_file: Path) -> None:
    outcome = cli("eval", bundle, "--text", text_file, "--text", text_file, "--max-tokens", 20)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"num tokens +20\nnum bytes +\d+\nperplexity +[\d.]+\nbits per byte +[\d.]+\n", outcome.out), (
        outcome.out
    )


# chat


@pytest.mark.parametrize("kind", ["bundle", "chatty_bundle"])
def test_chat_answers_each_line_as_python_does(cli: CommandLine, kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    outcome = cli("chat", path, "--system", "Be brief.", "-n", 10, "--sampling", "greedy", stdin="Hello\n\nAnd you?\n")
    assert outcome.code == 0
    conversation = skipstone.load(path).chat(system="Be brief.")
    options = skipstone.options.generation_options(max_new_tokens=10)
    answers = ["".join(piece.text for piece in conversation.stream(text, options)) for text in ("Hello", "And you?")]
    assert outcome.out == "".join(f"{answer}\n" for answer in answers)
    remarks = outcome.err.splitlines()
    assert ("has no chat template" in remarks[0]) == (kind == "bundle")
    assert [re.sub(r"[\d.]+", "#", line) for line in remarks[-2:]] == ["# tokens at #/s, first after # s"] * 2


@pytest.mark.parametrize("decode", ["exit", "switch", "adaptive", "skipdecode", "cascade"])
def test_chat_refuses_approximate_methods(cli: CommandLine, bundle: Path, decode: str) -> None:
    outcome = cli("chat", bundle, "--decode", decode, stdin="Hello\n")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"--decode {decode} is approximate, which generate and eval run; chat takes auto" in outcome.err


def test_a_quiet_chat_says_nothing_but_the_answers(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("chat", bundle, "-n", 4, "--quiet", stdin="Hello\n")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


def test_a_line_that_is_no_text_is_refused_and_the_talk_goes_on(cli: CommandLine, bundle: Path) -> None:
    command = ("chat", bundle, "-n", 4, "--quiet", "--seed", 1)
    outcome = cli(*command, stdin=b"a\x00b\n\xff\n ok\n")
    assert outcome.out == cli(*command, stdin=b"a\x00b\n ok\n").out
    assert outcome.code == 0
    assert re.fullmatch(r"skipstone: text holds half a character, U\+DCFF, at position 0; .+\n", outcome.err)


def test_each_turn_of_a_chat_has_a_seed_of_its_own_which_it_says(cli: CommandLine, bundle: Path) -> None:
    last = 2**64 - 1
    command = ("chat", bundle, "-n", 8, "--temperature", 1.5, "--seed")
    outcome = cli(*command, last, stdin=b"Hello\n\xff\nHello\nHello\n")
    seeds = [int(seed) for seed in re.findall(r"seed (\d+)\n", outcome.err)]
    assert seeds == [last, 0, 1]
    conversation = skipstone.load(bundle).chat()
    answers = []
    for seed in seeds:
        reply = conversation.stream("Hello", max_new_tokens=8, temperature=1.5, seed=seed)
        answers.append("".join(piece.text for piece in reply))
    assert outcome.out == "".join(f"{answer}\n" for answer in answers)


def test_an_answer_that_is_interrupted_ends_its_line(cli: CommandLine, bundle: Path) -> None:
    calls: list[int] = []

    def interrupt(*_: object) -> None:
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt

    command = ("chat", bundle, "-n", 6, "--decode", "plain", "--sampling", "greedy")
    assert skipstone.load(bundle).runtime.rounding  # measured before calls are counted
    with watching(interrupt):
        outcome = cli(*command, stdin="Hello\nHello\n")
    whole = cli(*command, stdin="Hello\n").out
    assert outcome.code == 0
    begun, newline, rest = outcome.out.partition("\n")
    assert begun and whole.startswith(begun) and newline
    assert rest.endswith("\n") and len(rest) > 1
    assert "stopped\n" in outcome.err and "\n\n" not in outcome.err


# Where output goes


def test_pipes_get_no_escape_codes(cli: CommandLine, bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """But those that the model writes."""
    for arguments in (
        ("generate", bundle, "-p", PROMPT, "-n", 4),
        ("inspect", bundle, "--verify"),
        ("devices",),
        ("export", tiny_checkpoint, "-o", tmp_path / "out"),
        ("chat", bundle, "-n", 4),
    ):
        outcome = cli(*arguments, stdin="Hello\n")
        assert outcome.code == 0
        assert "\x1b" not in outcome.err
        assert arguments[0] in ("generate", "chat") or "\x1b" not in outcome.out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_styles_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal, redirect_stderr(terminal):
        notes().print("12 tokens", style="dim")
    shown = os.read(reader, 1000)
    os.close(reader)
    assert (b"\x1b" in shown) == (not no_color)
    assert b"12 tokens" in shown


def test_columns_are_as_wide_as_the_longest_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([("a", "1"), ("long", "first\nsecond")])
    assert capsys.readouterr().out == "a     1\nlong  first\n      second\n"


def test_a_reader_that_leaves_ends_the_program_in_peace(cli: CommandLine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, redirect_stdout(closed), pytest.raises(SystemExit) as end:
        cli.start("devices")
    assert end.value.code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output_is_an_error_of_one_line() -> None:
    refused = pytest.raises(OutputError, match="standard output cannot be written: No space left")
    with Path("/dev/full").open("w") as full, redirect_stdout(full), refused:
        write("text")


# The bundled model


@needs_pebble
def test_a_cache_folder_that_cannot_be_written_names_the_variable_that_sets_it(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "file" / "cache"))
    outcome = cli("inspect", "pebble")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(r"skipstone: .* cannot be written: Not a directory: .*; SKIPSTONE_CACHE sets.*\n", outcome.err)


@needs_pebble
def test_the_demo_runs(cli: CommandLine) -> None:
    outcome = cli("demo")
    assert outcome.code == 0
    assert outcome.out.startswith(demo.PROMPT)
    name = plan("pebble").recipe.name
    assert re.fullmatch(rf"exported pebble to {name}: .*\n\d+ tokens/s on \d+ threads\n", outcome.err)


@needs_pebble
def test_pebble_is_exported_once_into_the_cache_folder(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    first = cli("generate", "pebble", "-p", PROMPT, "-n", 8)
    assert first.code == 0
    (folder,) = (tmp_path / "cache").glob("pebble-*")
    written = (folder / "skipstone.json").stat()
    second = cli("generate", "pebble", "-p", PROMPT, "-n", 8)
    assert second.out == first.out
    assert (folder / "skipstone.json").stat().st_ino == written.st_ino
    assert (folder / "skipstone.json").stat().st_mtime_ns == written.st_mtime_ns
