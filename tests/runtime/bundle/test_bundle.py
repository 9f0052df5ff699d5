"""The folder of a bundle: whole or not there, whatever happens to the export."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skipstone.errors import BundleError, OutputError
from skipstone.runtime.bundle import (
    Bundle,
    BundleWriter,
    Dimensions,
    FileEntry,
    LayerCache,
    Manifest,
    Provenance,
    StageEntry,
    write_manifest,
)
from skipstone.runtime.bundle import writer as writer_module


def toy_manifest(files: Mapping[str, FileEntry]) -> Manifest:
    return Manifest(
        family="llama",
        dimensions=Dimensions(
            vocab_size=10,
            hidden_size=4,
            intermediate_size=4,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_size=4,
        ),
        context_length=8,
        stages=(StageEntry(file="stage-00.onnx", first_layer=0, end_layer=1, embeds=True, ends_in_logits=True),),
        head=None,
        exits=(),
        cache=(LayerCache(num_heads=1, head_size=4, dtype="float32"),),
        recipe={},
        bos_id=None,
        stop_ids=(),
        special_ids=(),
        provenance=Provenance(source="toy", tool_version="0.1.0", command="skipstone export toy"),
        files=files,
    )


def write_toy(target: Path, content: str, *, force: bool = False) -> Bundle:
    """Write a bundle of two files, one in a subfolder, with `content` in both."""
    with BundleWriter(target, force=force) as writer:
        (writer.path / "stage-00.onnx").write_text(content)
        (writer.path / "exits").mkdir()
        (writer.path / "exits" / "notes.txt").write_text(content)
        return writer.finish(toy_manifest)


def write_pair(target: Path, content: str, *, force: bool = False) -> Bundle:
    """Write a bundle that carries a drafter, with `content` in the graph of each."""
    with BundleWriter(target, force=force) as writer:
        (writer.path / "stage-00.onnx").write_text(content)
        (writer.path / "drafter").mkdir()
        (writer.path / "drafter" / "stage-00.onnx").write_text(content)
        write_manifest(writer.path / "drafter", toy_manifest)
        return writer.finish(lambda files: replace(toy_manifest(files), draft_model="drafter"))


def content_of(target: Path) -> str:
    """Return what `write_toy` wrote, after every check that a bundle has."""
    found = Bundle.open(target)
    found.verify()
    texts = {(target / name).read_text() for name in found.manifest.files}
    assert len(texts) == 1
    return texts.pop()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Opening


def test_a_written_bundle_opens_and_verifies_with_every_file_in_its_manifest(tmp_path: Path) -> None:
    written = write_toy(tmp_path / "new" / "out", "hello")
    assert Bundle.open(tmp_path / "new" / "out") == written
    assert sorted(written.manifest.files) == ["exits/notes.txt", "stage-00.onnx"]
    assert content_of(tmp_path / "new" / "out") == "hello"
    assert names_in(tmp_path / "new") == ["out"]


def test_a_folder_that_is_no_bundle_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: it has no skipstone\.json"):
        Bundle.open(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="is a checkpoint, not a bundle: run `skipstone export`"):
        Bundle.open(tmp_path / "empty")


def test_a_missing_or_cut_file_is_found_when_the_bundle_is_opened(tmp_path: Path) -> None:
    write_toy(tmp_path / "out", "hello")
    (tmp_path / "out" / "stage-00.onnx").write_text("hel")
    with pytest.raises(BundleError, match=r"stage-00\.onnx has 3 bytes, 5 wanted"):
        Bundle.open(tmp_path / "out")
    (tmp_path / "out" / "stage-00.onnx").unlink()
    with pytest.raises(BundleError, match=r"stage-00\.onnx is missing"):
        Bundle.open(tmp_path / "out")


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b""])
def test_a_damaged_manifest_is_named_with_its_path(tmp_path: Path, content: bytes) -> None:
    write_toy(tmp_path / "out", "hello")
    (tmp_path / "out" / "skipstone.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"out/skipstone\.json: "):
        Bundle.open(tmp_path / "out")


def test_verify_names_every_file_altered_in_its_size(tmp_path: Path) -> None:
    write_toy(tmp_path / "out", "hello")
    (tmp_path / "out" / "stage-00.onnx").write_text("hallo")
    (tmp_path / "out" / "exits" / "notes.txt").write_text("hullo")
    with pytest.raises(BundleError, match=r"exits/notes\.txt, stage-00\.onnx altered"):
        Bundle.open(tmp_path / "out").verify()


def test_verify_reports_all_bytes_to_progress(tmp_path: Path) -> None:
    seen: list[int] = []
    bundle = write_toy(tmp_path / "out", "hello")
    bundle.verify(seen.append)
    assert sum(seen) == bundle.manifest.total_bytes == 10


def test_a_drafter_is_a_bundle_of_its_own_whose_files_are_all_in_the_manifest_of_the_whole(tmp_path: Path) -> None:
    written = write_pair(tmp_path / "out", "hello")
    assert sorted(written.manifest.files) == ["drafter/skipstone.json", "drafter/stage-00.onnx", "stage-00.onnx"]
    assert written.open_draft_model() == Bundle.open(tmp_path / "out" / "drafter")
    assert content_of(tmp_path / "out" / "drafter") == "hello"
    assert write_toy(tmp_path / "alone", "hello").open_draft_model() is None


@pytest.mark.parametrize("name", ["skipstone.json", "stage-00.onnx"])
def test_a_damaged_drafter_is_damage_of_the_whole_bundle(tmp_path: Path, name: str) -> None:
    write_pair(tmp_path / "out", "hello")
    file = tmp_path / "out" / "drafter" / name
    file.write_bytes(file.read_bytes().swapcase())
    with pytest.raises(BundleError, match=rf"drafter/{re.escape(name)} altered"):
        Bundle.open(tmp_path / "out").verify()
    file.unlink()
    with pytest.raises(BundleError, match=rf"drafter/{re.escape(name)} is missing"):
        Bundle.open(tmp_path / "out")


def test_force_replaces_a_bundle_that_carries_a_drafter(tmp_path: Path) -> None:
    write_pair(tmp_path / "out", "old")
    write_toy(tmp_path / "out", "new", force=True)
    assert content_of(tmp_path / "out") == "new"
    assert not (tmp_path / "out" / "drafter").exists()


def test_a_bundle_behind_a_link_opens_and_is_replaced_where_it_lies(tmp_path: Path) -> None:
    write_toy(tmp_path / "real" / "out", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    assert content_of(tmp_path / "link") == "old"
    write_toy(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert content_of(tmp_path / "real" / "out") == "new"


# Writing


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path) -> None:
    write_toy(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="out exists: pass --force to replace it"):
        BundleWriter(tmp_path / "out", force=False)
    assert content_of(tmp_path / "out") == "old"


@pytest.fixture(params=["exchange", "renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the swap in one step, and again as where the file system has none."""
    if request.param == "renames":
        monkeypatch.setattr(writer_module, "_exchange", lambda first, second: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_force_replaces_a_bundle_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_toy(tmp_path / "out", "old")
    write_toy(tmp_path / "out", "new", force=True)
    assert content_of(tmp_path / "out") == "new"
    assert names_in(tmp_path) == ["out"]


def test_force_accepts_an_empty_folder_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        write_toy(tmp_path / name, "new", force=True)
        assert content_of(tmp_path / name) == "new"


def test_force_never_deletes_files_that_are_not_of_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    write_toy(tmp_path / "mixed", "old")
    (tmp_path / "mixed" / "exits" / "my-notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"thesis holds files that are not of a bundle \(chapter\.tex\)"):
        BundleWriter(tmp_path / "thesis", force=True)
    with pytest.raises(OutputError, match="is a file"):
        BundleWriter(tmp_path / "file", force=True)
    with pytest.raises(OutputError, match=r"exits/my-notes\.txt"):
        BundleWriter(tmp_path / "mixed", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_at_the_target_during_the_export_is_not_overwritten(tmp_path: Path, force: bool) -> None:
    with pytest.raises(OutputError), BundleWriter(tmp_path / "out", force=force) as writer:
        (writer.path / "stage-00.onnx").write_text("new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("x")
        writer.finish(toy_manifest)
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["mine.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_export_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    write_toy(tmp_path / "out", "old")
    with pytest.raises(type(error)), BundleWriter(tmp_path / "out", force=True) as writer:
        (writer.path / "stage-00.onnx").write_text("half")
        raise error
    assert content_of(tmp_path / "out") == "old"
    assert names_in(tmp_path) == ["out"]


def test_a_writer_that_is_never_finished_leaves_no_trace(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out", force=False) as writer:
        (writer.path / "stage-00.onnx").write_text("half")
    assert names_in(tmp_path) == []


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left on device: free some space") as caught,
        BundleWriter(tmp_path / "out", force=False),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_the_source_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), BundleWriter(tmp_path / "out", force=False):
        (tmp_path / "out-checkpoint").read_text()


def test_a_write_error_inside_the_export_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be written: No such file"),
        BundleWriter(tmp_path / "out", False) as w,
    ):
        (w.path / "no-such-folder" / "file").write_text("x")


def test_a_parent_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError, match="cannot be written"), BundleWriter(target, force=False):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="Permission denied"), BundleWriter(tmp_path / "locked" / "out", force=False):
        pass


# Leftovers


def test_two_exports_to_one_place_do_not_meet(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out", force=False) as writer:
        (writer.path / "stage-00.onnx").write_text("first")
        with pytest.raises(OutputError, match="is being written by another export"):
            write_toy(tmp_path / "out", "second")
        with pytest.raises(BundleError):
            Bundle.open(tmp_path / "out")
        writer.finish(toy_manifest)
    assert content_of(tmp_path / "out") == "first"


def test_the_leftovers_of_other_bundles_and_folders_with_like_names_are_left_alone(tmp_path: Path) -> None:
    others = [".out.partial-notes", ".out2.partial-1", ".outXpartial-1", ".out.partial-1.partial-1", ".out.old-"]
    for name in others:
        (tmp_path / name).mkdir()
    write_toy(tmp_path / "out", "new")
    assert names_in(tmp_path) == sorted([*others, "out"])


def test_opening_puts_back_the_old_bundle_when_an_export_died_between_its_two_renames(tmp_path: Path) -> None:
    write_toy(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.old-1")
    write_toy(tmp_path / "new", "new")
    (tmp_path / "new").rename(tmp_path / ".out.partial-1")
    assert content_of(tmp_path / "out") == "old"
    assert names_in(tmp_path) == ["out"]


def run_until(moment: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child process that gets SIGKILL just before its file operation number `moment`.

    Returns whether it was killed; False says that it has fewer operations than that.
    """
    child = os.fork()
    if child == 0:
        gc.disable()  # the parent's threads are not here, so nothing of the parent may be torn down
        operations = itertools.count()
        operation_names = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock"}

        def kill_at_the_moment(event: str, arguments: tuple[Any, ...]) -> None:
            if event in operation_names and next(operations) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_at_the_moment)
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("old", [None, "old"])
def test_an_export_killed_at_any_moment_leaves_the_old_bundle_or_the_new_one(tmp_path: Path, old: str | None) -> None:
    outcomes = set()
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        target = folder / "out"
        if old is not None:
            write_toy(target, old)
        killed = run_until(moment, lambda target=target: write_toy(target, "new", force=True))
        opened = Path(shutil.copytree(folder, tmp_path / f"{moment}-opened")) / "out"
        outcomes.add(content_of(opened) if old or opened.exists() else None)
        write_toy(target, "next", force=True)
        assert content_of(target) == "next"
        assert names_in(folder) == ["out"]
        if not killed:
            break
    assert moment > 15
    assert outcomes == {old, "new"}


def test_ctrl_c_while_the_place_is_being_claimed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipstone.runtime.bundle.writer.lock_for_writing", interrupted)
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "bundle", force=False):
        pass
    assert list(tmp_path.iterdir()) == []
