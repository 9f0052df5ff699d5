"""Adapters of mlx-lm: what is read is what its layers compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skipstone.api import export, plan
from skipstone.errors import CheckpointError, UnsupportedModel

Arrays = dict[str, NDArray[Any]]
LORA = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 3, "scale": 20.0, "dropout": 0.0}}
QUERY, DOWN, EMBEDDING = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.embed_tokens"


def factors(module: str, inputs: int, outputs: int, *, rank: int = 3) -> Arrays:
    random = np.random.default_rng(inputs * outputs)
    return {
        f"{module}.lora_a": (random.standard_normal((inputs, rank)) / 10).astype(np.float32),
        f"{module}.lora_b": (random.standard_normal((rank, outputs)) / 10).astype(np.float32),
    }


def adapter(folder: Path, settings: object, tensors: Arrays) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapters.safetensors")
    return folder


def read(checkpoint: Path, folder: Path, name: str) -> NDArray[np.float32]:
    tensors = plan(checkpoint, lora=folder).checkpoint.tensors
    shape = tensors.shape(name)
    return tensors.read(name, (shape[0], shape[1]))


@pytest.mark.parametrize(("module", "outputs", "inputs"), [(QUERY, 64, 52), (DOWN, 52, 76)])
def test_a_matrix_gets_what_the_layer_of_mlx_adds(
    module: str, outputs: int, inputs: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The layer computes x @ W.T + scale * (x @ A) @ B."""
    tensors = factors(module, inputs, outputs)
    folder = adapter(tmp_path / "mlx", LORA, tensors)
    base = load_file(tiny_checkpoint / "model.safetensors")[f"{module}.weight"]
    x = np.random.default_rng(0).standard_normal((5, inputs)).astype(np.float32)
    wanted = x @ base.T + 20.0 * (x @ tensors[f"{module}.lora_a"]) @ tensors[f"{module}.lora_b"]
    np.testing.assert_allclose(x @ read(tiny_checkpoint, folder, f"{module}.weight").T, wanted, rtol=1e-4, atol=1e-3)


def test_an_embedding_gets_the_rows_of_its_factors(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensors = factors(EMBEDDING, 307, 52)
    folder = adapter(tmp_path / "mlx", LORA, tensors)
    base = load_file(tiny_checkpoint / "model.safetensors")[f"{EMBEDDING}.weight"]
    wanted = base + 20.0 * tensors[f"{EMBEDDING}.lora_a"] @ tensors[f"{EMBEDDING}.lora_b"]
    np.testing.assert_allclose(read(tiny_checkpoint, folder, f"{EMBEDDING}.weight"), wanted, rtol=1e-5, atol=1e-5)


def test_dora_gives_the_rows_their_lengths(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensors = factors(QUERY, 52, 64) | {f"{QUERY}.m": np.linspace(1, 2, 64, dtype=np.float32)}
    folder = adapter(tmp_path / "mlx", LORA | {"fine_tune_type": "dora"}, tensors)
    base = load_file(tiny_checkpoint / "model.safetensors")[f"{QUERY}.weight"]
    adapted = base + 20.0 * (tensors[f"{QUERY}.lora_a"] @ tensors[f"{QUERY}.lora_b"]).T
    wanted = adapted * (tensors[f"{QUERY}.m"] / np.linalg.norm(adapted, axis=1))[:, None]
    np.testing.assert_allclose(read(tiny_checkpoint, folder, f"{QUERY}.weight"), wanted, rtol=1e-5, atol=1e-5)


def test_weights_that_were_tuned_whole_take_the_place_of_the_others(tiny_checkpoint: Path, tmp_path: Path) -> None:
    new = np.ones((64, 52), np.float32)
    folder = adapter(tmp_path / "mlx", {"fine_tune_type": "full", "num_layers": 4}, {f"{QUERY}.weight": new})
    np.testing.assert_array_equal(read(tiny_checkpoint, folder, f"{QUERY}.weight"), new)


def test_an_older_file_multiplies_its_scale_by_alpha_over_rank(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensors = factors(QUERY, 52, 64)
    old = {"lora_layers": 4, "lora_parameters": {"rank": 3, "alpha": 6, "scale": 10.0}}
    folders = [adapter(tmp_path / name, settings, tensors) for name, settings in (("old", old), ("new", LORA))]
    found = [read(tiny_checkpoint, folder, f"{QUERY}.weight") for folder in folders]
    np.testing.assert_array_equal(*found)


def test_a_bundle_carries_it_and_can_be_checked(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(num_hidden_layers=2)
    folder = adapter(tmp_path / "mlx", LORA, factors(QUERY, 52, 64) | factors(DOWN, 76, 52))
    export(base, tmp_path / "out", precision="fp32", lora=folder, check=True)


@pytest.mark.parametrize(
    ("settings", "tensors", "error", "message"),
    [
        (LORA | {"fine_tune_type": "ia3"}, factors(QUERY, 52, 64), UnsupportedModel, "mlx-lm of type 'ia3'.*fuse"),
        (
            LORA | {"lora_parameters": {"rank": 3}},
            factors(QUERY, 52, 64),
            CheckpointError,
            "must have a rank and a scale",
        ),
        (LORA, factors(QUERY, 64, 52), CheckpointError, "lora_a' has shape"),
        (LORA, factors(f"{QUERY}s", 52, 64), CheckpointError, "which the checkpoint does not have"),
        (LORA, {f"{QUERY}.lora_a": np.ones((52, 3), np.float32)}, CheckpointError, "only one of"),
        (
            LORA,
            {"model.layers.0.mlp.switch_mlp.up_proj.lora_a": np.ones((4, 3, 52), np.float32)},
            UnsupportedModel,
            "is for all experts of a layer.*fuse",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    settings: object,
    tensors: Arrays,
    error: type[CheckpointError],
    message: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        plan(tiny_checkpoint, lora=adapter(tmp_path / "mlx", settings, tensors))


def test_an_adapter_without_its_weights_says_which_file_is_missing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "mlx", LORA, {})
    (folder / "adapters.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapters\.safetensors: pass the folder that mlx_lm\.lora wrote"):
        plan(tiny_checkpoint, lora=folder)
