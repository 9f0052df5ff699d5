"""What users touch: public names, commands with their options, and the words about them in README and docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import skipstone
from skipstone.cli.app import program

ROOT = Path(__file__).parents[2]
PUBLIC_NAMES = {
    "Cancellation",
    "Conversation",
    "Generation",
    "GenerationOptions",
    "LanguageModel",
    "Piece",
    "PromptProgress",
    "SamplingOptions",
    "SkipstoneError",
    "Stats",
    "Suggestion",
    "__version__",
    "export",
    "load",
}
SAMPLING = "--sampling --temperature --top-k --top-p --min-p --typical --top-h --seed"
PENALTIES = "--repetition-penalty --presence-penalty --frequency-penalty --no-repeat-ngram"
DRAFTING = "--draft-model --draft-device"
PLACE = "--device --threads --max-threads --verify-files"
COMMANDS = {
    "export": "--output --precision --group-size --exits --revision --draft-model --draft-model-precision --target "
    "--lora --ffn-width --exit-adapters --cuts --draft-head --via --calibrate --budget --prune --recipe --check "
    "--prefill --cache --buckets --experts --active --distill --force --sign --quiet",
    "generate": "--prompt --system --raw --allow-special --stream --max-new-tokens --min-new-tokens --decode --device "
    "--threads --max-threads --verify-files --context --stop --logprobs "
    f"--verify --exact --samples --suffix-memory --stats --show-drafts --show-depth "
    f"--stop-below --stop-loops --min-agreement --dial --calibration --complete-words --json --quiet {DRAFTING} "
    f"--prompt-cache --prefill --active --cache {SAMPLING} {PENALTIES}",
    "suggest": "--prompt --num-drafts --max-new-tokens --method --ngrams --complete-words --context --interactive "
    f"--cache {PLACE} --json --quiet",
    "choose": f"--prompt --answer --dial --normalize --closing --cache {PLACE} --json --quiet",
    "chat": "--json --plain --no-history --allow-special "
    "--system --context --on-full --max-new-tokens --min-new-tokens --stop --stop-below --stop-loops --decode "
    f"--prompt-cache --prefill --cache {DRAFTING} --suffix-memory {PLACE} --quiet "
    f"{SAMPLING} {PENALTIES}",
    "inspect": "--verify --recipe --json --quiet",
    "devices": "--check --json",
    "check-target": "--nodes --all --rows --context --json",
    "train-exits": "--text --output --exits --rank --steps --epochs --learning-rate --seed --held-out --restart --json "
    "--quiet",
    "train-experts": "--output --text --restart --active --steps --tokens --learning-rate --seed --threads --json "
    "--quiet",
    "ngrams": "--output --bundle --min-count --max-size --force --json --quiet",
    "tune costs": f"--seconds --plot --cache {PLACE} --json --quiet",
    "tune exits": f"--text --cache {PLACE} --json --quiet",
    "tune skip": f"--text --cache {PLACE} --json --quiet",
    "tune dial": f"--decode --text --max-tokens {DRAFTING} --cache {PLACE} --json --quiet",
    "tune active": f"--text --budget --seed --cache {PLACE} --json --quiet",
    "tune threads": "--most --new-tokens --runs --device --json --quiet",
    "bench speed": f"--prompt-tokens --new-tokens --runs --prefill --cache {PLACE} --output --quiet",
    "bench suite": "--exact --suite --decode --draft-device --new-tokens --runs --plot "
    f"--cache {PLACE} --output --quiet",
    "bench replay": f"--text --decode --cache {PLACE} --output --quiet",
    "eval text": f"--text --reference --max-tokens --window --no-speed --plot --cache {PLACE} --json --quiet",
    "eval method": f"--text --decode --min-agreement --dial --own --calibration --max-tokens {DRAFTING} --plot "
    f"--cache {PLACE} --json --quiet",
    "eval stops": f"--text --stop-below --cache {PLACE} --json --quiet",
    "eval sparsity": "--text --methods --at --of --calibrate --max-tokens --prompt --seed --beside --json --quiet",
    "eval choices": f"--cases --normalize --closing --cache {PLACE} --json --quiet",
    "demo": "--quiet",
    "cache list": "--json",
    "cache remove": "--all --older-than --quiet",
}
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


def test_the_public_names_are_these_and_all_resolve() -> None:
    assert set(skipstone.__all__) == PUBLIC_NAMES
    for name in skipstone.__all__:
        assert getattr(skipstone, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="unheard_of"):
        skipstone.__getattr__("unheard_of")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("skipstone", "numpy onnxruntime tokenizers skipstone.runtime skipstone.exporters skipstone.devices"),
        (
            "skipstone.runtime.engine.model",
            "torch onnx onnx_ir safetensors skipstone.exporters skipstone.quant skipstone.cli",
        ),
        (
            "skipstone.exporters.export",
            "torch transformers onnxruntime skipstone.devices skipstone.runtime.engine.model",
        ),
        ("skipstone.quant", "onnx onnx_ir onnxruntime skipstone.runtime skipstone.exporters skipstone.devices"),
        ("skipstone.cli", "numpy onnxruntime tokenizers torch skipstone.api skipstone.exporters"),
    ],
)
def test_importing_a_part_does_not_import_the_rest(module: str, unwanted: str) -> None:
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & set({unwanted.split()})))"
    assert run_python("-c", program).split() == []


def test_help_lists_every_command() -> None:
    assert section(help_of(), "Commands", r"([\w-]+)") == {name.split()[0] for name in COMMANDS}
    for group in GROUPS:
        names = {name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")}
        assert section(help_of(group), "Commands", r"([\w-]+)") == names


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_names_its_options_and_shows_an_example(command: str) -> None:
    text, _, examples = help_of(*command.split()).partition("Example")
    assert set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)) == {*COMMANDS[command].split(), "--help"}
    assert f"skipstone {command}" in examples


def test_the_program_is_installed_and_tells_its_version() -> None:
    program = Path(sys.executable).parent / "skipstone"
    assert run(program, "--version").strip() == skipstone.__version__


def test_the_python_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks, "README.md shows no Python"
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    run_python(str(program), folder=tmp_path)


def test_the_bundle_document_explains_every_field_of_the_manifest() -> None:
    from skipstone.runtime.bundle import manifest

    document = (ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    parts = [getattr(manifest, name) for name in manifest.__all__ if name[0].isupper() and not name.isupper()]
    fields = {name for part in parts for name in part.__dataclass_fields__}
    assert [name for name in sorted(fields) if f"`{name}`" not in document] == []


@pytest.mark.parametrize("document", ["docs/life-of-a-token.md", "docs/bundle.md", "CONTRIBUTING.md"])
def test_the_files_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:sdk|runtime|exporters|quant|devices|tests|docs|examples)/[\w./-]+\.(?:py|md))`", text)
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def help_of(*command: str) -> str:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(program([]), [*command, "--help"], prog_name="skipstone")
    assert result.exit_code == 0, result.output
    return result.output


def section(text: str, title: str, pattern: str) -> set[str]:
    """Return what starts the entries, two spaces deep, under `title` of a help text."""
    body = text.partition(f"{title}:\n")[2].partition("\n\n")[0]
    return set(re.findall(rf"^  {pattern}", body, re.M))


def run_python(*arguments: str, folder: Path | None = None) -> str:
    return run(Path(sys.executable), *arguments, folder=folder)


def run(program: Path, *arguments: str, folder: Path | None = None) -> str:
    """Return standard output; PYTHONPATH and the like do not matter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
