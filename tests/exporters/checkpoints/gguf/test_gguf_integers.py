"""The integers of every kind of blocks stand for the numbers of the package gguf, exactly or to a part of a step."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import MakeBundle
from gguf_files import KINDS, SCALES, WITH_MINIMUM, Array, WriteGguf, random_blocks
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.gguf.file import StoredBlocks
from skipstone.exporters.checkpoints.gguf.integers import KINDS as CARRIED
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors
from skipstone.quant import QuantizedMatrix
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Bytes = NDArray[np.uint8]
ROUNDED_TO_HALVES = {"Q3_K", "Q6_K", "IQ4_XS"}


def stored(folder: Path, kind: str, blocks: Bytes, shape: tuple[int, ...]) -> StoredBlocks:
    path = folder / "blocks.bin"
    path.write_bytes(blocks.tobytes())
    return StoredBlocks(path=path, kind=KINDS[kind], shape=shape, offset=0, num_bytes=blocks.nbytes)


def integers(folder: Path, kind: str, blocks: Bytes, shape: tuple[int, int], **undone: object) -> QuantizedMatrix:
    tensor = GgufTensor(blocks=stored(folder, kind, blocks, shape), **undone)  # type: ignore[arg-type]
    return GgufTensors({"ours": tensor}).read_quantized("ours", shape)


def numbers(kind: str, blocks: Bytes) -> NDArray[np.float32]:
    return gguf.quants.dequantize(blocks, KINDS[kind])


def relative_error(matrix: QuantizedMatrix, wanted: Array) -> float:
    """The root mean square of the error by that of the weights."""
    return float(np.sqrt(np.square(matrix.dequantize() - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("kind", CARRIED)
def test_integers_stand_for_the_numbers_of_the_package_gguf(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 24, 512)
    matrix, wanted = integers(tmp_path, kind, blocks, (24, 512)), numbers(kind, blocks)
    if kind in WITH_MINIMUM:
        assert relative_error(matrix, wanted) < 0.01
    elif kind in ROUNDED_TO_HALVES:
        np.testing.assert_allclose(matrix.dequantize(), wanted, rtol=2**-11)
    else:
        np.testing.assert_array_equal(matrix.dequantize(), wanted)


@pytest.mark.parametrize("kind", WITH_MINIMUM)
@pytest.mark.parametrize("reach", [0.0, -1.0, 3.0, -3.0, 40.0, 3000.0])
def test_blocks_that_lie_off_zero_are_near_too(kind: str, reach: float, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 24, 512, reach=reach)
    assert relative_error(integers(tmp_path, kind, blocks, (24, 512)), numbers(kind, blocks)) < 0.01


@pytest.mark.parametrize("kind", CARRIED)
def test_blocks_without_a_step_are_what_they_are(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 24, 512)
    at = SCALES.get(kind, (0,))[0]
    _, block_bytes = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    blocks.reshape(-1, block_bytes)[::3, at : at + 2] = 0
    matrix, wanted = integers(tmp_path, kind, blocks, (24, 512)), numbers(kind, blocks)
    assert relative_error(matrix, wanted) < 0.01
    assert not matrix.dequantize()[wanted == 0].any()


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_tiny_and_huge_scales_are_kept(kind: str, scale: float, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 6, 512)
    _, block_bytes = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    for at in SCALES.get(kind, (0,)):
        halves = blocks.reshape(-1, block_bytes)[:, at : at + 2]
        halves[:] = (halves.copy().view("<f2") * scale).astype("<f2").view(np.uint8)
    wanted = numbers(kind, blocks)
    assert relative_error(integers(tmp_path, kind, blocks, (6, 512)), wanted) < 0.01


@pytest.mark.parametrize("kind", CARRIED)
def test_rows_come_in_their_order_from_their_part_in_any_pieces(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 3 * 11, 256)
    order = np.random.default_rng(1).permutation(11)
    tensor = GgufTensor(
        blocks=stored(tmp_path, kind, blocks, (3, 11, 256)), part=1, order=order, piece_bytes=2 * blocks.shape[1]
    )
    found = GgufTensors({"ours": tensor}).read_quantized("ours", (11, 256))
    wanted = np.empty((11, 256), np.float32)
    wanted[order] = numbers(kind, blocks[11:22])
    assert relative_error(found, wanted) < 0.01
    assert found.offsets is None, "experts take none"


@pytest.mark.parametrize("kind", CARRIED)
def test_scales_that_are_not_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, 2, 256)
    at = SCALES.get(kind, (0,))[-1]
    blocks[1, at : at + 2] = 0xFF
    with pytest.raises(CheckpointError, match="'ours' has NaN or infinite scales"):
        integers(tmp_path, kind, blocks, (2, 256))


# Whole models

TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=20).tolist())


def log_probabilities(bundle: Path) -> Array:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    rows: Array = sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", CARRIED)
def test_the_default_export_of_a_file_computes_its_numbers(
    kind: str, write_gguf: WriteGguf, make_bundle: MakeBundle
) -> None:
    file = write_gguf("llama, blocks of 256", kind=kind)
    kept = make_bundle(file, precision=None)
    wanted, found = log_probabilities(make_bundle(file)), log_probabilities(kept)
    kl = (np.exp(wanted) * (wanted - found)).sum(axis=1).mean()
    assert kl < 0.004
    (said,) = Bundle.open(kept).manifest.recipe["kept_kinds"]
    assert (said["kind"], said["matrices"]) == (kind, 16) and said["error"] < 0.02
    assert (said["error"] == 0) == CARRIED[kind].is_exact


@pytest.mark.parametrize("kind", CARRIED)
def test_with_a_precision_only_integers_that_lie_as_ours_do_are_kept(
    kind: str, write_gguf: WriteGguf, make_bundle: MakeBundle
) -> None:
    manifest = Bundle.open(make_bundle(write_gguf("llama, blocks of 256", kind=kind), precision="int8")).manifest
    assert manifest.recipe.get("kept_integers", 0) == (16 if kind in ("Q4_0", "Q8_0") else 0)
