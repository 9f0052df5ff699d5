"""Whatever is wrong with what a user gives: one clear line on standard error, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from safetensors.numpy import load_file, save_file

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model

Refused = Callable[..., None]
Damage = Callable[[Path], object]
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture
def place(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a checkpoint, a bundle and a text, all of which a test may damage."""
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    shutil.copytree(make_bundle(tiny_checkpoint), tmp_path / "bundle")
    (tmp_path / "text.txt").write_text("def add(first, second):\n    return first + second\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(cli: CommandLine, place: Path) -> Refused:
    """Run a command and check that it ends as every mistake of a user must, with a message of this pattern."""

    def check(command: str, pattern: str, *, stdin: bytes | str | None = b"") -> None:
        before = files_in(place)
        outcome = cli(*shlex.split(command), stdin=stdin)
        assert re.fullmatch(r"skipstone: .+\n", outcome.err), outcome
        assert re.search(pattern, outcome.err), outcome
        assert (outcome.code, outcome.out) == (2, "")
        assert files_in(place) == before

    return check


def files_in(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replace(name: str, content: bytes | str) -> Damage:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def overwrite(name: str) -> Damage:
    """Other content in the same size."""
    return lambda folder: (folder / name).write_bytes(b"\xfe" * (folder / name).stat().st_size)


def set_json(name: str, **changes: object) -> Damage:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def set_tensors(change: Callable[[dict[str, Any]], object]) -> Damage:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


# Files

CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "no such folder: checkpoint"),
    "no config.json": (remove("config.json"), r"checkpoint has no config\.json"),
    "a config that is not JSON": (replace("config.json", "{"), r"config\.json: not valid JSON"),
    "an unknown family": (
        set_json("config.json", model_type="gptj"),
        "'gptj' is not known; known are falcon, .*; or let optimum export it: --via optimum",
    ),
    "another family": (set_json("config.json", model_type="gpt2"), r"lacks the tensor transformer\.wte\.weight"),
    "an unknown rope type": (
        set_json("config.json", rope_parameters={"rope_type": "proportional"}),
        "rope type 'proportional' is not known; known are default, dynamic,",
    ),
    "no weights": (remove("model.safetensors"), "has no weights: looked for model.safetensors"),
    "truncated weights": (cut("model.safetensors"), r"model\.safetensors: truncated: expected \d+ bytes, found \d+"),
    "a git-lfs pointer": (replace("model.safetensors", LFS_POINTER), "git-lfs pointer, not weights: run git lfs pull"),
    "a misshapen tensor": (
        set_tensors(lambda tensors: tensors.update({"model.norm.weight": np.ones(51, np.float32)})),
        r"model\.norm\.weight has shape \(51,\)",
    ),
    "a missing tensor": (
        set_tensors(lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight")),
        r"lacks the tensor model\.layers\.2\.mlp\.up_proj\.weight",
    ),
    "weights that are NaN": (
        set_tensors(lambda tensors: tensors["lm_head.weight"].fill(np.nan)),
        r"'lm_head\.weight' holds 15964 NaN or infinite values",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"checkpoint has no tokenizer\.json"),
    "a tokenizer that is garbage": (
        replace("tokenizer.json", b"\x00\xff{"),
        r"tokenizer\.json of checkpoint is not a tokenizer",
    ),
}
BUNDLES: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "there is no bundle here: "),
    "no manifest": (remove("skipstone.json"), r"bundle is not a bundle: it has no skipstone\.json"),
    "a manifest that is garbage": (replace("skipstone.json", b"\xff"), r"bundle/skipstone\.json: "),
    "a manifest of a newer version": (
        set_json("skipstone.json", format_version=11),
        r"format 11 is newer than .* reads \(10\): upgrade with",
    ),
    "no weights": (remove("weights.bin"), r"weights\.bin is missing; copy or export the bundle again"),
    "truncated weights": (cut("weights.bin"), r"weights\.bin has \d+ bytes, \d+ wanted"),
    "another graph of the same size": (overwrite("stage-00.onnx"), r"stage-00\.onnx altered; copy or export"),
    "another tokenizer of the same size": (overwrite("tokenizer.json"), r"tokenizer\.json altered; copy or export"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_exported_is_refused(refused: Refused, place: Path, case: str) -> None:
    damage, pattern = CHECKPOINTS[case]
    damage(place / "checkpoint")
    refused("export checkpoint -o out", pattern)
    refused("export checkpoint -o bundle --force", pattern)
    Bundle.open(place / "bundle").verify()


@pytest.mark.parametrize("case", BUNDLES)
def test_a_bundle_that_cannot_run_is_refused(refused: Refused, place: Path, case: str) -> None:
    damage, pattern = BUNDLES[case]
    damage(place / "bundle")
    refused("generate bundle -p x", pattern)


def test_an_altered_byte_is_found_by_verify(refused: Refused, place: Path) -> None:
    weights = place / "bundle" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    refused("inspect bundle --verify", r"weights\.bin altered; copy or export the bundle again")


# Options

OPTIONS = {
    "export checkpoint -o out --precision int3": "'--precision': 'int3' is not one of 'int4', ",
    "export checkpoint -o out --group-size 48": "'--group-size': '48' is not one of '32', '64', '128'",
    "export checkpoint -o out --precision fp32 --group-size 32": "fp32 has no groups",
    "export checkpoint -o out --exits 99": "--exits 99: an exit lies between layer 1 and 3",
    "export checkpoint -o out --exits x": "--exits takes none, auto or layer numbers like 4,8, not 'x'",
    "export checkpoint -o out --exits ''": "--exits takes none",
    "export checkpoint -o out --revision main": "revision 'main' does not apply to the local folder",
    "export checkpoint": "Missing option '--output' / '-o'",
    "export checkpoint -o bundle": "bundle exists: pass --force to replace it",
    "export checkpoint -o checkpoint --force": "checkpoint holds files that are not of a bundle",
    "export checkpoint -o text.txt --force": r"text\.txt is a file",
    "export owner/name -o bundle": "bundle exists: pass --force to replace it",
    "generate": "Missing argument 'BUNDLE'; see skipstone generate --help",
    "generate bundle surplus": "unexpected extra argument",
    "generate bundle -p x --decode magic": "decoding method 'magic' is not known; known are plain, auto, ngram",
    "generate bundle -p x --decode plain --suffix-memory m": "--suffix-memory is for the suffix drafter",
    "chat bundle --decode ngram --suffix-memory m": "--suffix-memory is for the suffix drafter",
    "generate bundle -p x --device tpu": "device 'tpu' is not known; did you mean cpu",
    "generate bundle -p x --device cuda": "CUDAExecutionProvider is not installed here; it comes with",
    "generate bundle -p x --threads 0": "'--threads'",
    "generate bundle -p x -n 0": "'--max-new-tokens'",
    "generate bundle -p x -n many": "'--max-new-tokens'",
    "generate bundle -p x --min-new-tokens 200": "min_new_tokens 200 is more than max_new_tokens 128",
    "generate bundle -p x --context 0": "'--context'",
    "generate bundle -p x --context 257": "context must lie between 1 and the model's 256 tokens, got 257",
    "generate bundle -p x --temperature -1": "'--temperature'",
    "generate bundle -p x --temperature nan": "'--temperature'",
    "generate bundle -p x --top-k -1": "'--top-k'",
    "generate bundle -p x --top-p 0.9": "top_p 0.9 changes nothing at temperature 0",
    "generate bundle -p x --top-p 2": "top_p must be above 0 and at most 1",
    "generate bundle -p x --temperature 1 --top-p 0": "top_p must be above 0",
    "generate bundle -p x --temperature 1 --min-p 2": "min_p must be above 0 and at most 1",
    "generate bundle -p x --temperature 1 --typical 0": "typical must be above 0",
    "generate bundle -p x --temperature 1 --top-h 2": "top_h must be above 0 and at most 1",
    "generate bundle -p x --repetition-penalty 0": "repetition_penalty must be above 0",
    "generate bundle -p x --presence-penalty inf": "presence_penalty must be a finite number",
    "generate bundle -p x --frequency-penalty nan": "frequency_penalty must be a finite number",
    "generate bundle -p x --no-repeat-ngram -1": "'--no-repeat-ngram'",
    "generate bundle -p x --seed -1": "seed must be at least 0",
    "generate bundle -p x --stop ''": "a stop string is empty",
    "generate bundle -p x --logprobs -1 --json": "'--logprobs'",
    "generate bundle -p x --logprobs 2": "--logprobs is shown with --json only; add --json",
    "chat bundle --sampling greedy --top-p 0.9": "top_p 0.9 changes nothing at temperature 0",
    "bench bundle --runs 0": "'--runs'",
    "bench bundle --prompt-tokens 0": "'--prompt-tokens'",
    "bench bundle --new-tokens 1": "'--new-tokens'",
    "bench bundle --prompt-tokens 200 --new-tokens 57": "need 257, the model's context has 256; lower --prompt-tokens",
    "bench bundle -o xml": "'xml' is not one of 'md', 'json', 'csv'",
    "eval bundle": "Missing option '--text'",
    "eval bundle --text missing.txt": r"missing\.txt cannot be read: No such file",
    "eval bundle --text bundle": "bundle cannot be read: Is a directory",
    "eval bundle --text bundle/weights.bin": r"weights\.bin is not UTF-8 text: .* at byte \d+",
    "eval bundle --text text.txt --max-tokens 1": "'--max-tokens'",
    "eval bundle --text text.txt --reference chekpoint": "there is no chekpoint here",
    "inspect bundle --unheard-of": "No such option: --unheard-of; see skipstone inspect --help",
    "inspect bundle --traceback": "No such option: --traceback",
    "unheard-of": "No such command 'unheard-of'; see skipstone --help",
    "--unheard-of": "No such option: --unheard-of",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_that_cannot_work_is_refused(refused: Refused, command: str) -> None:
    refused(command, OPTIONS[command])


def test_a_sampling_option_is_refused_before_the_bundle_is_opened(refused: Refused, place: Path) -> None:
    shutil.rmtree(place / "bundle")
    for command in ("generate bundle -p x", "chat bundle"):
        refused(f"{command} --seed -1", "seed must be at least 0")


# Texts


def test_a_text_that_does_not_fit_the_context_is_refused(refused: Refused) -> None:
    refused(
        f"generate bundle -p '{'🦊' * 100}' -n 1", "cache holds 256 tokens, 400 needed; the model sees no more than 256"
    )
    refused("generate bundle -p x -n 256", "cache holds 256 tokens, 257 needed")
    refused("generate bundle -p x -n 10 --context 8", "cache holds 8 tokens, 11 needed")
    refused("chat bundle --quiet --on-full stop", "the context holds 256; shorten it", stdin="🦊" * 100 + "\n")
    refused("chat bundle --context 257", "context must lie between 1 and the model's 256 tokens, got 257")
    refused("chat bundle --on-full shift", "'--on-full': 'shift' is not one of 'drop', 'stop'")


def test_an_empty_prompt_is_refused(refused: Refused) -> None:
    refused("generate bundle -p ''", "the prompt is empty")
    refused("generate bundle", "the prompt is empty", stdin="")


def test_bytes_that_are_not_text_are_refused(refused: Refused) -> None:
    refused("generate bundle", r"text holds half a character, U\+DCFF, at position 3", stdin=b"abc\xff")


def test_standard_input_that_is_closed_is_refused(refused: Refused) -> None:
    closed = "standard input is closed"
    refused("generate bundle -n 3", f"{closed}; give the text with --prompt", stdin=None)
    refused("choose bundle --answer a --answer b", f"{closed}; give the text with --prompt", stdin=None)
    refused("chat bundle --quiet", f"{closed}; a chat reads its messages there", stdin=None)


def test_standard_output_that_is_closed_is_refused(place: Path) -> None:
    """Of a real process, as only that has one."""
    program = [sys.executable, "-c", "import sys; sys.stdout = None; from skipstone.cli import main; main()"]
    for command in (["generate", "bundle", "-p", "x", "-n", "3"], ["inspect", "bundle", "--json"], ["devices"]):
        ended = subprocess.run([*program, *command], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (2, "skipstone: standard output is closed\n"), ended


def test_standard_input_that_cannot_be_read_is_refused(place: Path) -> None:
    """Of a real process, as only that has one."""
    for command in (["generate", "bundle", "-n", "3"], ["chat", "bundle", "--quiet"]):
        with (place / "written").open("wb") as file:
            program = [sys.executable, "-c", "from skipstone.cli import main; main()"]
            ended = subprocess.run([*program, *command], stdin=file, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert re.fullmatch("skipstone: standard input cannot be read: .+\n", ended.stderr)


def test_an_empty_text_is_not_evaluated(refused: Refused, place: Path) -> None:
    (place / "text.txt").write_text("")
    refused("eval bundle --text text.txt", r"text\.txt is empty")
    (place / "text.txt").write_text("x")
    refused("eval bundle --text text.txt", "a text to evaluate needs at least two tokens")


def test_a_reference_of_another_vocabulary_is_refused(
    refused: Refused, place: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    shutil.copytree(make_bundle(make_checkpoint(vocab_size=320)), place / "padded")
    refused("eval bundle --text text.txt --reference padded", "the reference has another tokenizer")
    tokenizer = json.loads((place / "checkpoint/tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (place / "checkpoint/tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copytree(make_bundle(place / "checkpoint"), place / "bytes")
    refused("eval bundle --text text.txt --reference bytes", "the reference has another tokenizer")


# Token ids, which only Python can give


@pytest.mark.parametrize("token_id", [-1, 307, 2**40])
def test_a_token_id_outside_the_vocabulary_is_refused(tiny: Model, token_id: int) -> None:
    sequence = tiny.new_sequence()
    with pytest.raises(ConfigError, match=f"token id {token_id} is outside the vocabulary of 307"):
        sequence.append([5, token_id])
    assert sequence.token_ids == []
    for options in ({"logit_bias": {token_id: 1.0}}, {"banned_ids": (token_id,)}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} .*{token_id}"):
            LanguageModel(tiny).generate("x", max_new_tokens=2, **options)


def test_the_last_token_of_the_vocabulary_is_inside(tiny: Model) -> None:
    tiny.new_sequence().append([0, 306])
    result = LanguageModel(tiny).generate("x", max_new_tokens=2, logit_bias={306: 1e6}, banned_ids=(305,))
    assert result.token_ids == (306, 306)


def test_an_answer_without_room_is_refused_before_the_first_token(tiny: Model) -> None:
    with pytest.raises(CacheFull):
        LanguageModel(tiny).stream("x", max_new_tokens=256)


# The place of the bundle


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount file systems in memory with the given options; they go when the test ends."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root on Linux can mount a file system")
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_is_left_on_it(refused: Refused, mount: Callable[[str], Path]) -> None:
    disk = mount("size=64k")
    refused(f"export checkpoint -o {disk}/out", "out cannot be written: No space left on device: free some space")
    assert list(disk.iterdir()) == []


def test_a_full_disk_leaves_the_old_bundle_whole(
    cli: CommandLine, refused: Refused, mount: Callable[[str], Path]
) -> None:
    disk = mount("size=600k")
    assert cli("export", "checkpoint", "-o", disk / "out", "--precision", "int4").code == 0
    refused(f"export checkpoint -o {disk}/out --precision fp32 --force", "No space left on device")
    Bundle.open(disk / "out").verify()
    assert [path.name for path in disk.iterdir()] == ["out"]


def test_a_read_only_disk_is_told(refused: Refused, mount: Callable[[str], Path]) -> None:
    refused(f"export checkpoint -o {mount('ro')}/out", "out cannot be written: Read-only file system: choose another")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written_is_told(refused: Refused, place: Path) -> None:
    (place / "locked").mkdir(mode=0o555)
    refused("export checkpoint -o locked/out", "out cannot be written: Permission denied: choose another place")
