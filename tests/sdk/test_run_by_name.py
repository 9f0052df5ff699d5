"""Models by their names: a checkpoint or GGUF file is exported once, kept, and found again by its content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
from command_line import CommandLine
from conftest import MakeBundle
from gguf_files import WriteGguf

import skipstone
from skipstone.by_name import exports_folder, kept_exports, resolve
from skipstone.by_name.model_name import PRECISIONS
from skipstone.errors import BundleError, CheckpointError, OutputError
from skipstone.exporters import Precision
from skipstone.runtime.bundle import Bundle
from skipstone.watcher import Watcher


class Heard(Watcher):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, line: str) -> None:
        self.remarks.append(line)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="module")
def gguf_file(write_gguf: WriteGguf) -> Path:
    return write_gguf("llama")


def test_a_checkpoint_is_exported_once_and_kept(checkpoint: Path) -> None:
    first, second = Heard(), Heard()
    made = resolve(checkpoint, watcher=first)
    assert f"{checkpoint} is exported once and kept; `skipstone cache` lists what is" in first.remarks
    assert resolve(checkpoint, watcher=second) == made
    assert second.remarks == []
    assert made.parent == exports_folder()
    assert [kept.source for kept in kept_exports()] == [str(checkpoint)]


def test_its_text_is_that_of_the_bundle_which_export_makes(checkpoint: Path, make_bundle: MakeBundle) -> None:
    wanted = skipstone.load(skipstone.export(checkpoint, checkpoint.parent / "out")).generate("def", max_new_tokens=12)
    assert skipstone.load(checkpoint).generate("def", max_new_tokens=12).text == wanted.text


def test_a_gguf_file_runs_by_its_path_whatever_its_suffix(gguf_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(gguf_file, tmp_path / "weights"))
    text = skipstone.load(gguf_file).generate("a", max_new_tokens=6).text
    assert skipstone.load(copy).generate("a", max_new_tokens=6).text == text


def test_a_bundle_is_taken_as_it_is(checkpoint: Path) -> None:
    bundle = skipstone.export(checkpoint, checkpoint.parent / "out")
    shutil.copy(checkpoint / "config.json", bundle)
    assert resolve(bundle) == bundle
    assert kept_exports() == []


def test_other_content_is_exported_again_and_the_same_content_is_not(checkpoint: Path) -> None:
    made = resolve(checkpoint)
    os.utime(checkpoint / "config.json")  # other times, the same bytes
    assert resolve(checkpoint) == made
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
    assert resolve(checkpoint) != made


def test_a_damaged_export_is_made_again_and_said(checkpoint: Path) -> None:
    made, heard = resolve(checkpoint), Heard()
    (made / "skipstone.json").write_text("{")
    assert resolve(checkpoint, watcher=heard) == made
    assert f"{made} is damaged; it is made again" in heard.remarks
    skipstone.load(made)


@pytest.mark.parametrize("note", ["", "[]", '{"source": 1}', "[" * 20_000, '{"files": {"a": [1]}}'])
def test_a_damaged_note_counts_as_none(checkpoint: Path, note: str) -> None:
    made = resolve(checkpoint)
    made.with_name(f"{made.name}.json").write_text(note)
    assert resolve(checkpoint) == made


def test_an_export_that_is_interrupted_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipstone.export_job import ExportJob

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExportJob, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve(checkpoint)
    assert kept_exports() == []
    assert [path for path in exports_folder().iterdir() if path.is_dir()] == []
    resolve(checkpoint)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("peble", "did you mean pebble"),
        ("no-such-folder", "give a bundle folder, a checkpoint folder, a GGUF file, a hub id"),
        ("a/b/c", "there is no a/b/c here"),
    ],
)
def test_unknown_names_are_refused_with_what_could_be_meant(name: str, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        resolve(name)


def test_a_path_in_a_folder_that_is_there_is_no_hub_id(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, gguf_file: Path
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    shutil.copy(gguf_file, checkpoint / "weights.gguf")
    with pytest.raises(BundleError, match=r"there is no model/weight.gguf here: did you mean model/weights.gguf"):
        resolve("model/weight.gguf")


def test_a_hub_id_is_looked_up_in_the_hub_and_kept_by_its_name(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(hub_id: str, revision: str | None) -> Path:
        asked.append(hub_id)
        return checkpoint

    for module in ("skipstone.exporters.checkpoints", "skipstone.exporters.checkpoints.opening"):
        monkeypatch.setattr(f"{module}.fetch", fetch)
    made = resolve("someone/model")
    assert len(asked) >= 1
    asked.clear()
    assert resolve("someone/model") == made
    assert asked == [], "what is kept needs no network"
    assert [kept.source for kept in kept_exports()] == ["someone/model"]


def test_a_hub_that_does_not_answer_is_told_with_a_command_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(hub_id: str, revision: str | None) -> Path:
        raise CheckpointError(f"cannot fetch {hub_id} from the hub: check the network")

    monkeypatch.setattr("skipstone.exporters.checkpoints.fetch", fetch)
    with pytest.raises(CheckpointError, match=r'no folder someone/model here.*it is: skipstone.load\("./FOLDER"\)'):
        resolve("someone/model")


def test_a_precision_behind_the_name_is_exported_for_itself(checkpoint: Path) -> None:
    usual, whole = resolve(checkpoint), resolve(f"{checkpoint}:fp32")
    assert usual != whole and resolve(f"{checkpoint}:fp32") == whole
    assert Bundle.open(whole).manifest.recipe["name"] == "fp32"
    assert {kept.asked for kept in kept_exports()} == {str(checkpoint), f"{checkpoint}:fp32"}
    with pytest.raises(BundleError, match=r"did you mean .*:int4"):
        resolve(f"{checkpoint}:int44")
    with pytest.raises(BundleError, match=r"keeps its precision: leave :int8 out"):
        resolve(f"{usual}:int8")
    assert set(PRECISIONS) == {*get_args(Precision)}


def test_a_revision_of_a_hub_id_is_kept_for_itself(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(hub_id: str, revision: str | None) -> Path:
        asked.append((hub_id, revision))
        return checkpoint

    for module in ("skipstone.exporters.checkpoints", "skipstone.exporters.checkpoints.opening"):
        monkeypatch.setattr(f"{module}.fetch", fetch)
    resolve("someone/model@v2:fp32")
    assert {*asked} == {("someone/model", "v2")}
    [kept] = kept_exports()
    assert (kept.asked, kept.commit) == ("someone/model@v2:fp32", checkpoint.name)
    with pytest.raises(BundleError, match="is not on the hub"):
        resolve(f"{checkpoint}@v2")


def test_a_file_that_was_moved_is_not_exported_again(gguf_file: Path, tmp_path: Path) -> None:
    first = Path(shutil.copy(gguf_file, tmp_path / "one.gguf"))
    made = resolve(first)
    second = first.rename(tmp_path / "two.gguf")
    assert resolve(second) == made
    assert [kept.source for kept in kept_exports()] == [str(second)]


def test_threads_that_ask_at_once_wait_for_one_export(checkpoint: Path) -> None:
    heard = [Heard() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda watcher: resolve(checkpoint, watcher=watcher), heard))
    assert {*made} == {resolve(checkpoint)}
    told = [remark for watcher in heard for remark in watcher.remarks if "is exported once" in remark]
    assert len(told) == 1


def test_processes_that_ask_at_once_wait_for_one_export(checkpoint: Path) -> None:
    code = "import sys; from skipstone.by_name import resolve; print(resolve(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(checkpoint)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == [str(resolve(checkpoint))] * 2


def test_a_cache_that_cannot_be_a_folder_is_told(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", "/dev/null/x")
    assert cli("cache").err == (
        "skipstone: /dev/null is a file, so /dev/null/x cannot be a folder; set SKIPSTONE_CACHE to another\n"
    )


def test_a_cache_that_cannot_be_written_is_told(checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(OutputError, match="SKIPSTONE_CACHE sets the folder"):
        resolve(checkpoint)


def test_commands_run_models_by_name(cli: CommandLine, checkpoint: Path, cache: Path) -> None:
    first = cli("generate", checkpoint, "-p", "def", "-n", 4, "--raw")
    assert first.code == 0, first.err
    assert "is exported once and kept" in first.err
    second = cli("generate", checkpoint, "-p", "def", "-n", 4, "--raw")
    assert second.out == first.out
    assert "exported" not in second.err
    assert "layers" in cli("inspect", checkpoint).out


def test_the_cache_is_listed_and_emptied(cli: CommandLine, checkpoint: Path, cache: Path) -> None:
    assert cli("cache").out == f"{cache}: 0.0 MB\n"
    made = resolve(checkpoint)
    listed = cli("cache")
    assert str(checkpoint) in listed.out and made.name in listed.out and "today" in listed.out
    assert json.loads(cli("cache", "--json").out)["kept"][0]["source"] == str(checkpoint)
    assert cli("cache", "remove", "--older-than", 1).err == "nothing to remove\n"
    refused = cli("cache", "remove", made.name[:-1])
    assert (refused.code, refused.err) == (
        2,
        f"skipstone: no export named {made.name[:-1]} is kept; did you mean {made.name}?\n",
    )
    assert cli("cache", "remove").code == 2
    assert cli("cache", "remove", checkpoint).err == f"removed {made.name}\n"
    assert not made.exists() and kept_exports() == []
    resolve(checkpoint)
    assert cli("cache", "remove", "--all").err == f"removed {made.name}\n"


def test_exports_of_another_version_are_told(cli: CommandLine, checkpoint: Path) -> None:
    made = resolve(checkpoint)
    note = made.with_name(f"{made.name}.json")
    note.write_text(note.read_text().replace(f'"version": "{skipstone.__version__}"', '"version": "0.0.1"'))
    assert "of skipstone 0.0.1; not used any more" in cli("cache").out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("generate peb", {"pebble", "pebble-mini"}),
        ("generate m --decode ngram,suf", {"ngram,suffix"}),
        ("generate m --decode pla", {"plain"}),
        ("chat m --device web", {"webgpu"}),
        ("cac", {"cache"}),
        ("generate m --temperat", {"--temperature"}),
        ("generate mo", {"model", "model.gguf"}),
    ],
)
def test_the_shell_completes(
    words: str,
    offered: set[str],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("model.gguf").write_bytes(b"GGUF")
    line = f"skipstone {words}"
    monkeypatch.setenv("_SKIPSTONE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    outcome = CommandLine(monkeypatch, capfd)()
    assert {word for word in outcome.out.split() if word} == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_models(
    shell: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    monkeypatch.setenv("_SKIPSTONE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "skipstone generate mo")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    told = CommandLine(monkeypatch, capfd)().out
    assert "model" in told and "pebble" not in told
