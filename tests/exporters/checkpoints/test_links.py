"""Links, pipes and devices in the folder of a checkpoint: none leads out of it, none is waited for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skipstone.errors import CheckpointError
from skipstone.exporters import ExportOptions, plan_export

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "elsewhere" / "secret"
    file.parent.mkdir()
    file.write_text("hush", encoding="utf-8")
    return file


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_out_of_the_folder_is_refused_by_name(place: Path, secret: Path, name: str) -> None:
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=rf"{name}: is a link that leads out of its folder, to .*/secret: copy"):
        plan_export(place, ExportOptions())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/proc/self/environ")],
    ids=["a pipe", "a device", "an environment"],
)
def test_what_is_no_regular_file_is_refused_at_once(place: Path, name: str, make: Callable[[Path], None]) -> None:
    (place / name).unlink(missing_ok=True)
    make(place / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is (no regular file|a link that leads out)"):
        plan_export(place, ExportOptions())


def test_a_linked_folder_of_templates_is_refused(place: Path, secret: Path) -> None:
    (secret.parent / "tool_use.jinja").write_text("hush", encoding="utf-8")
    (place / "additional_chat_templates").symlink_to(secret.parent)
    with pytest.raises(CheckpointError, match="additional_chat_templates: is a link that leads out"):
        plan_export(place, ExportOptions())


def test_links_inside_the_folder_and_to_the_folder_are_followed(place: Path, tmp_path: Path) -> None:
    (place / "model.safetensors").rename(place / "weights")
    (place / "model.safetensors").symlink_to("weights")
    (tmp_path / "named").symlink_to(place)
    plan_export(tmp_path / "named", ExportOptions())


def test_the_blobs_of_the_hubs_cache_are_followed_and_nothing_else_of_it(place: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(place.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    plan_export(snapshot, ExportOptions())
    (repository / "refs").write_text("main", encoding="utf-8")
    (snapshot / "chat_template.jinja").symlink_to(Path("..", "..", "refs"))
    with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
        plan_export(snapshot, ExportOptions())


def test_settings_of_a_size_that_nobody_needs_are_refused(place: Path) -> None:
    os.truncate(place / "config.json", 1 << 40)
    with pytest.raises(CheckpointError, match=r"config\.json: has 1099511627776 bytes, and no such file needs more"):
        plan_export(place, ExportOptions())
