"""The blocks of GGUF files become the numbers and integers that they stand for, and damage is refused."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import KINDS, Array, WriteGguf, write
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints import open_checkpoint
from skipstone.exporters.checkpoints.gguf import open_gguf
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.integers import KINDS as CARRIED
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors


def one_matrix(path: Path, name: str, array: Array, kind: str, *, architecture: str = "llama") -> Path:
    return write(path / "one.gguf", architecture, {}, {name: (array, KINDS[kind])})


def random_blocks(kind: str, *, num_rows: int, num_blocks: int) -> NDArray[np.uint8]:
    """Bytes below 60, as which every float16 is finite."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    size = (num_rows, num_blocks * block_bytes)
    return np.random.default_rng(0).integers(0, 60, size=size).astype(np.uint8)


READABLE = (
    *("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("TQ1_0", "TQ2_0", "MXFP4", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL"),
    "IQ4_XS",
)


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_of_blocks_gives_the_numbers_of_the_package_gguf(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, num_rows=5, num_blocks=3)
    wanted = gguf.quants.dequantize(blocks, KINDS[kind])
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, kind))
    tensors = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])})
    assert tensors.shape("ours") == wanted.shape
    np.testing.assert_array_equal(tensors.read("ours", wanted.shape), wanted)
    assert tensors.is_quantized("ours") == (kind in CARRIED)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_integers_are_carried_over_bit_for_bit(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, num_rows=7, num_blocks=3)
    wanted = gguf.quants.dequantize(blocks, KINDS[kind])
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, kind))
    matrix = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])}).read_quantized("ours", (7, 96))
    assert (matrix.bits, matrix.block_size, matrix.zero_points) == (int(kind[1]), 32, None)
    np.testing.assert_array_equal(matrix.dequantize(), wanted)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q8_0"])
def test_a_tensor_of_many_pieces_is_whole(kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 11, 64)).astype(np.float32)
    order = np.random.default_rng(1).permutation(11)
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", array, kind))
    matrix = GgufTensor(blocks=file.tensors["output.weight"], part=1, order=order, piece_bytes=250)
    tensors = GgufTensors({"ours": matrix})
    wanted = np.empty((11, 64), np.float32)
    wanted[order] = gguf.quants.dequantize(gguf.quants.quantize(array, KINDS[kind]), KINDS[kind])[1]
    np.testing.assert_array_equal(tensors.read("ours", (11, 64)), wanted)
    if kind != "F32":
        np.testing.assert_array_equal(tensors.read_quantized("ours", (11, 64)).dequantize(), wanted)


@pytest.mark.parametrize("name", ["llama, whole blocks", "mixtral, whole blocks", "gptneox, whole blocks"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_the_integers_of_a_whole_model_stand_for_the_numbers_that_are_read(
    name: str, kind: str, write_gguf: WriteGguf
) -> None:
    tensors = open_gguf(write_gguf(name, kind=kind)).tensors
    matrices = [name for name in tensors.names() if len(tensors.shape(name)) == 2]
    assert matrices and all(tensors.is_quantized(name) for name in matrices)
    for name in matrices:
        num_rows, columns = tensors.shape(name)
        carried = tensors.read_quantized(name, (num_rows, columns)).dequantize()
        np.testing.assert_array_equal(carried, tensors.read(name, (num_rows, columns)))


def test_matrices_that_gpt2_has_the_other_way_round_are_read_as_numbers(write_gguf: WriteGguf) -> None:
    tensors = open_gguf(write_gguf("gpt2", kind="Q8_0")).tensors
    assert tensors.shape("transformer.h.0.mlp.c_fc.weight") == (64, 256)
    assert not tensors.is_quantized("transformer.h.0.mlp.c_fc.weight")
    assert tensors.is_quantized("transformer.wte.weight")


def test_numbers_are_not_given_as_integers(write_gguf: WriteGguf) -> None:
    tensors = open_gguf(write_gguf("llama")).tensors
    assert not tensors.is_quantized("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*numbers, not as integers"):
        tensors.read_quantized("lm_head.weight", (307, 52))


def test_scales_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    blocks = np.full((2, 34), 0xFF, np.uint8)
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, "Q8_0"))
    tensors = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])})
    with pytest.raises(CheckpointError, match="'ours' has NaN or infinite scales"):
        tensors.read_quantized("ours", (2, 32))


# Damage


def test_a_file_without_an_architecture_is_refused(whole_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(whole_file.replace(b"general.architecture", b"general.architecturf"))
    with pytest.raises(CheckpointError, match=r"no.gguf: lacks general.architecture: convert the checkpoint again"):
        open_checkpoint(tmp_path / "no.gguf")


@pytest.fixture(scope="session")
def whole_file(write_gguf: WriteGguf) -> bytes:
    return write_gguf("llama, tied").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, whole_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole_file[: int(share * len(whole_file))])
    with pytest.raises(CheckpointError, match=r"cut.gguf: (not a GGUF file|truncated)"):
        open_checkpoint(path)


@given(data=st.data())
def test_a_header_with_other_bytes_raises_only_our_errors(
    data: st.DataObject, whole_file: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(whole_file)
    for place in data.draw(st.lists(st.integers(0, 20_000), min_size=1, max_size=5)):
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(damaged)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert checkpoint.texts["tokenizer.json"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"safetensors", "not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian: turn a copy around with gguf-convert-endian bad.gguf little"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1, wanted one of 2, 3"),
        (b"version https://git-lfs", "is a git-lfs pointer"),
    ],
)
def test_what_is_no_gguf_file_is_refused(start: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(start + bytes(40))
    with pytest.raises(CheckpointError, match=f"bad.gguf: .*{message}"):
        open_checkpoint(tmp_path / "bad.gguf")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.gguf: cannot be read: No such file"):
        open_checkpoint("nowhere.gguf")


def test_a_revision_does_not_apply_to_a_file(write_gguf: WriteGguf) -> None:
    with pytest.raises(ConfigError, match="revision 'main' does not apply to the local file"):
        open_checkpoint(write_gguf("llama"), revision="main")


def test_without_the_package_the_extra_is_named(write_gguf: WriteGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf("llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install skipstone\[gguf\]"):
        open_checkpoint(path)
