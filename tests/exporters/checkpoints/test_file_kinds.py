"""What a path leads to is told by the first bytes of the file, never by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint
from gguf_files import WriteGguf
from safetensors.numpy import save_file

from skipstone.api import export, plan
from skipstone.errors import BundleError, CheckpointError, ConfigError
from skipstone.exporters.checkpoints import open_checkpoint
from skipstone.exporters.checkpoints.file_kinds import file_kind
from skipstone.runtime.bundle import Bundle

NAMES = ["Model.GGUF", "model", "sha256-6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83", "a.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_a_gguf_file_may_have_any_name(name: str, write_gguf: WriteGguf, tmp_path: Path) -> None:
    path = Path(shutil.copy(write_gguf("llama"), tmp_path / name))
    checkpoint = open_checkpoint(path)
    assert checkpoint.path == path and checkpoint.config["model_type"] == "llama"


def test_a_link_of_a_cache_leads_to_a_blob_without_suffix(write_gguf: WriteGguf, tmp_path: Path) -> None:
    shutil.copy(write_gguf("llama"), tmp_path / "blob")
    (tmp_path / "model.gguf").symlink_to(tmp_path / "blob")
    (tmp_path / "model").symlink_to(tmp_path / "blob")
    assert plan(tmp_path / "model").architecture == plan(tmp_path / "model.gguf").architecture


def test_a_draft_model_may_be_such_a_file(
    write_gguf: WriteGguf, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    blob = Path(shutil.copy(write_gguf("llama, tied"), tmp_path / "blob"))
    target = make_checkpoint(num_hidden_layers=12)
    assert plan(target, draft_model=blob).draft_model is not None


def test_a_folder_of_gguf_files_names_one(write_gguf: WriteGguf, tmp_path: Path) -> None:
    shutil.copy(write_gguf("llama"), tmp_path / "Model.GGUF")
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(CheckpointError, match=r"has no config.json: pass the file .*Model\.GGUF"):
        open_checkpoint(tmp_path)


def test_an_adapter_in_place_of_a_model_says_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no config.json: pass .*, and this adapter with --lora"):
        open_checkpoint(tmp_path)


def test_a_gguf_file_in_place_of_a_bundle_says_what_to_do(write_gguf: WriteGguf, tmp_path: Path) -> None:
    blob = Path(shutil.copy(write_gguf("llama"), tmp_path / "blob"))
    with pytest.raises(BundleError, match=r"blob is a GGUF file, not a bundle: run `skipstone export` on it first"):
        Bundle.open(blob)
    with pytest.raises(ConfigError, match="revision 'main' does not apply to the local file"):
        export(blob, tmp_path / "out", revision="main")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04" + bytes(30), "a zip archive, as torch saves weights in"),
        (b"\x80\x02" + bytes(30), "a pickle, as torch saved weights in"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"tjgg" + bytes(30), "a file older than GGUF"),
        (b'{"model_type": "llama"}', "a JSON file"),
        (b"nothing that we know", None),
        (b"", None),
    ],
)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(data: bytes, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(data)
    assert file_kind(tmp_path / "odd") == kind
    with pytest.raises(
        CheckpointError, match=r"odd is a file: pass the folder that holds config\.json and the weights"
    ) as error:
        open_checkpoint(tmp_path / "odd")
    assert str(error.value).endswith(f"({kind})" if kind else "and the weights")


def test_weights_alone_are_called_what_they_are(tmp_path: Path) -> None:
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "weights")
    torch.save({"w": torch.ones(3)}, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"weights is a file: .* \(a safetensors file\)"):
        open_checkpoint(tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"weights\.bin is a file: .* \(a zip archive"):
        open_checkpoint(tmp_path / "weights.bin")


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "weights.npz", "tf_model.h5"])
def test_weights_of_another_name_are_named(name: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_checkpoint(num_hidden_layers=1), tmp_path / "in"))
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=rf"has no weights: looked for .*, found {name}: save the model"):
        open_checkpoint(folder)
