"""Folders that MLX quantized: every weight is what mlx.core.quantize documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray
from packed_checkpoints import Arrays, write_checkpoint
from safetensors.numpy import load_file, save_file

from skipstone.api import export, plan
from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, safetensors_in
from skipstone.exporters.checkpoints.packed.mlx import MlxTensors
from skipstone.runtime.engine import Draft, Model

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "initializer_range": 0.1}
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=40).tolist())
Reference = Callable[[Path, tuple[int, ...]], NDArray[np.float32]]


def mlx_quantized(weight: NDArray[np.float32], *, bits: int, group_size: int) -> tuple[Arrays, NDArray[np.float32]]:
    """The pieces of a matrix [N, K] as MLX documents them, and the numbers they stand for."""
    groups = weight.reshape(len(weight), -1, group_size)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    scales = ((high - low) / ((1 << bits) - 1)).astype(np.float16)
    biases = low.astype(np.float16)
    steps, offsets = scales.astype(np.float32)[..., None], biases.astype(np.float32)[..., None]
    integers = np.clip(np.rint((groups - offsets) / steps), 0, (1 << bits) - 1).astype(np.int64)
    words = [word_stream(row.reshape(-1).tolist(), bits) for row in integers]
    pieces = {"weight": np.array(words, np.uint32), "scales": scales, "biases": biases}
    return pieces, (integers.astype(np.float32) * steps + offsets).reshape(weight.shape)


def word_stream(integers: list[int], bits: int) -> list[int]:
    """One long number, the first integer in its lowest bits, cut into words of 32 bits."""
    whole = sum(integer << (bits * place) for place, integer in enumerate(integers))
    return [whole >> start & 0xFFFFFFFF for start in range(0, bits * len(integers), 32)]


def mlx_folder(
    plain: Path, target: Path, *, bits: int = 4, group_size: int = 64, own: dict[str, int] | None = None
) -> tuple[Path, Path]:
    """The checkpoint as mlx-lm saves it, and the one of its numbers; `own` are bits of matrices by their stems."""
    stored: Arrays = {}
    numbers: Arrays = {}
    for name, weight in load_file(plain / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        stored[name] = numbers[name] = weight
        if weight.ndim == 2:
            pieces, numbers[name] = mlx_quantized(weight, bits=(own or {}).get(stem, bits), group_size=group_size)
            stored |= {f"{stem}.{piece}": array for piece, array in pieces.items()}
    settings = {"group_size": group_size, "bits": bits}
    settings |= {stem: {"group_size": group_size, "bits": width} for stem, width in (own or {}).items()}
    return (
        write_checkpoint(target / "mlx", plain, stored, quantization=settings, quantization_config=settings),
        write_checkpoint(target / "numbers", plain, numbers),
    )


def logits_of(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def kl(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    p, q = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (wanted, found))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_every_weight_is_what_mlx_says(
    bits: int, group_size: int, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder, numbers = mlx_folder(make_checkpoint(**WIDE), tmp_path, bits=bits, group_size=group_size)
    tensors = plan(folder).checkpoint.tensors
    wanted = load_file(numbers / "model.safetensors")
    assert tensors.names() == wanted.keys()
    for name, array in wanted.items():
        assert tensors.shape(name) == array.shape
        np.testing.assert_array_equal(tensors.read(name, array.shape), array)


def test_a_folder_of_mlx_gives_the_logits_of_its_numbers(
    make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    folder, numbers = mlx_folder(make_checkpoint(**WIDE, tie_word_embeddings=True), tmp_path)
    wanted = reference_logits(numbers, TOKEN_IDS)
    export(folder, tmp_path / "fp32", precision="fp32", check=True)
    np.testing.assert_allclose(logits_of(tmp_path / "fp32"), wanted, rtol=0, atol=1e-4)
    for precision, bound in (("int8", 0.005), ("int4", 0.08)):
        export(folder, tmp_path / precision, precision=precision)
        assert kl(wanted, logits_of(tmp_path / precision)) < bound


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_integers_are_carried_with_what_is_left_of_their_biases(bits: int, group_size: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(24, 256)).astype(np.float32)
    pieces, wanted = mlx_quantized(weight, bits=bits, group_size=group_size)
    save_file({f"w.{piece}": array for piece, array in pieces.items()}, tmp_path / "model.safetensors")
    tensors = MlxTensors(
        StoredTensors(safetensors_in(tmp_path / "model.safetensors")), {"group_size": group_size, "bits": bits}
    )
    matrix = tensors.read_quantized("w.weight", (24, 256))
    assert (matrix.bits, matrix.block_size) == (4 if bits <= 4 else 8, group_size)
    error = np.square(matrix.dequantize() - wanted).mean() / np.square(wanted).mean()
    assert error**0.5 < 0.01
    rows, numbers = tensors.sample("w.weight")
    np.testing.assert_array_equal(numbers, wanted[: len(numbers)])
    np.testing.assert_array_equal(rows.dequantize(), matrix.dequantize()[: len(numbers)])


def test_zero_on_the_grid_needs_no_offsets(tmp_path: Path) -> None:
    """As mlx.core.quantize chooses scales and biases: the bias is a whole number of scales."""
    weight = np.random.default_rng(0).normal(size=(24, 256)).astype(np.float32)
    pieces, _ = mlx_quantized(weight, bits=4, group_size=64)
    zeros = np.rint(-pieces["biases"] / pieces["scales"])
    pieces["biases"] = (-zeros * pieces["scales"]).astype(np.float16)
    save_file({f"w.{piece}": array for piece, array in pieces.items()}, tmp_path / "model.safetensors")
    tensors = MlxTensors(StoredTensors(safetensors_in(tmp_path / "model.safetensors")), {"bits": 4})
    assert tensors.read_quantized("w.weight", (24, 256)).offsets is None


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_default_export_keeps_the_integers(
    bits: int, make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    folder, numbers = mlx_folder(make_checkpoint(**WIDE, tie_word_embeddings=True), tmp_path, bits=bits)
    assert plan(folder).remarks[0] == "15 matrices keep their integers; int4 is for the others"
    export(folder, tmp_path / "kept")
    assert kl(reference_logits(numbers, TOKEN_IDS), logits_of(tmp_path / "kept")) < 0.004


def test_rounding_again_is_said(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder, _ = mlx_folder(make_checkpoint(**WIDE), tmp_path)
    said = "16 tensors lie in blocks that are not kept: they are rounded again, as the export was asked to"
    assert plan(folder, precision="int4").remarks == (said,)
    assert plan(folder, precision="fp32").remarks == ()


def test_a_matrix_may_have_bits_of_its_own(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    stem = "model.layers.1.mlp.down_proj"
    folder, numbers = mlx_folder(make_checkpoint(**WIDE), tmp_path, own={stem: 6})
    wanted = load_file(numbers / "model.safetensors")[f"{stem}.weight"]
    np.testing.assert_array_equal(plan(folder).checkpoint.tensors.read(f"{stem}.weight", wanted.shape), wanted)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"group_size": 32, "bits": 4, "mode": "mxfp4"},
            UnsupportedModel,
            "mlx: quantization 'mxfp4' is not supported",
        ),
        ({"group_size": 48, "bits": 4}, CheckpointError, r"in groups of 48 are not integers of 2, 3, 4, 5, 6, 8 bits"),
        ({"group_size": "64"}, CheckpointError, r"in groups of '64' are not integers"),
        (None, CheckpointError, "is quantized as MLX does it, but config.json has no quantization"),
    ],
)
def test_other_settings_are_refused_by_name(
    settings: object, error: type[CheckpointError], message: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder, _ = mlx_folder(make_checkpoint(**WIDE), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization": settings, "quantization_config": settings})
    )
    with pytest.raises(error, match=message):
        plan(folder)


def test_scales_without_biases_are_another_kind(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder, _ = mlx_folder(make_checkpoint(**WIDE), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in tensors.items() if not name.endswith("biases")}
    config = json.loads((folder / "config.json").read_text())
    other = write_checkpoint(tmp_path / "other", make_checkpoint(**WIDE), kept, quantization=config["quantization"])
    with pytest.raises(UnsupportedModel, match="mlx: quantization 'without biases' is not supported, only affine"):
        plan(other)
