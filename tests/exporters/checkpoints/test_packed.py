"""GPTQ and AWQ checkpoints: every weight is what the format says, and the integers reach the device unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from altered_bundles import fit_manifest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_nodes import run_node, tensors_of
from packed_checkpoints import GPTQ_V1, Arrays, Grid, gptq, rounded, word, words_across, write_checkpoint
from safetensors.numpy import load_file, save_file

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, open_checkpoint, safetensors_in
from skipstone.exporters.checkpoints.packed import unpacked
from skipstone.exporters.checkpoints.packed.tensors import PackedTensors
from skipstone.exporters.checkpoints.torch_bin import torch_tensors_in
from skipstone.quant import quantize, unpack
from skipstone.runtime.engine import Draft, Model

GPTQ_V2 = GPTQ_V1 | {"checkpoint_format": "gptq_v2"}
BY_GPTQMODEL = GPTQ_V1 | {"meta": {"quantizer": ["gptqmodel:2.0.0"]}}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def random_grid(
    rows: int, columns: int, *, bits: int = 4, group_size: int = 32, lowest: int = 1, shuffled: bool = False
) -> Grid:
    """Zero points lie from `lowest` to the highest integer; `shuffled` scatters the columns of a group."""
    random = np.random.default_rng(rows * columns)
    groups = np.arange(columns) // (columns if group_size == -1 else group_size)
    if shuffled:
        random.shuffle(groups)
    shape = (int(groups.max()) + 1, rows)
    return Grid(
        integers=random.integers(0, 1 << bits, (columns, rows)),
        zero_points=random.integers(lowest, 1 << bits, shape),
        scales=(random.standard_normal(shape) / 8).astype(np.float16),
        groups=groups,
        bits=bits,
    )


def symmetric(grid: Grid) -> Grid:
    return replace(grid, zero_points=np.full_like(grid.zero_points, 1 << (grid.bits - 1)))


def awq(grid: Grid) -> Arrays:
    interleaved = [start + place for start in range(0, grid.integers.shape[1], 8) for place in AWQ_ORDER]
    return {
        "qweight": words_across(grid.integers[:, interleaved], 4),
        "qzeros": words_across(grid.zero_points[:, interleaved], 4),
        "scales": grid.scales,
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed") / "model.safetensors"


def opened(scratch: Path, settings: Mapping[str, object], pieces: Arrays, **plain: NDArray[Any]) -> PackedTensors:
    """The tensors of a checkpoint of one packed matrix `w` and the plain ones."""
    save_file({**{f"w.{name}": array for name, array in pieces.items()}, **plain}, scratch)
    return unpacked({"quantization_config": settings}, StoredTensors(safetensors_in(scratch)))


def assert_carries(tensors: PackedTensors, grid: Grid) -> None:
    wanted = grid.matrix()
    shape = (wanted.shape[0], wanted.shape[1])
    assert tensors.shape("w.weight") == shape
    assert tensors.is_quantized("w.weight")
    found = tensors.read("w.weight", shape)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)
    matrix = tensors.read_quantized("w.weight", shape)
    assert matrix.bits == grid.bits
    order = np.arange(shape[1]) if matrix.order is None else matrix.order
    stored = unpack(matrix.data, matrix.bits, matrix.block_size).reshape(shape[0], -1)[:, : shape[1]]
    np.testing.assert_array_equal(stored, grid.integers.T[:, order])


# Values

rows_of_32 = st.sampled_from([32, 64])
group_sizes = st.sampled_from([16, 32, 48, 64, 128, 256, -1])


@given(
    bits=st.sampled_from([4, 8]),
    rows=rows_of_32,
    columns=st.sampled_from([32, 96, 200, 264]),
    group_size=group_sizes,
    shuffled=st.booleans(),
    minus=st.sampled_from([0, 1]),
)
def test_every_gptq_weight_is_what_the_format_says(
    scratch: Path, bits: int, rows: int, columns: int, group_size: int, shuffled: bool, minus: int
) -> None:
    grid = random_grid(rows, columns, bits=bits, group_size=group_size, lowest=minus, shuffled=shuffled)
    settings = (GPTQ_V1 if minus else GPTQ_V2) | {"bits": bits, "group_size": group_size}
    assert_carries(opened(scratch, settings, gptq(grid, minus=minus)), grid)


@given(rows=st.sampled_from([8, 24, 64]), columns=st.integers(1, 200), group_size=group_sizes)
def test_every_awq_weight_is_what_the_format_says(scratch: Path, rows: int, columns: int, group_size: int) -> None:
    grid = random_grid(rows, columns, group_size=group_size, lowest=0)
    assert_carries(opened(scratch, AWQ | {"group_size": group_size}, awq(grid)), grid)


def test_gptq_without_group_indices_has_groups_that_follow_each_other(scratch: Path) -> None:
    grid = random_grid(32, 72)
    pieces = gptq(grid)
    del pieces["g_idx"]
    assert_carries(opened(scratch, GPTQ_V1, pieces), grid)


def test_gptq_matrices_may_differ_in_bits(scratch: Path) -> None:
    grid = random_grid(32, 64, bits=8, group_size=16)
    assert_carries(opened(scratch, GPTQ_V1 | {"dynamic": {"w": {"bits": 8}}}, gptq(grid)), grid)


def test_symmetric_integers_carry_no_zero_points(scratch: Path) -> None:
    grid = symmetric(random_grid(32, 64))
    for settings, pieces in ((GPTQ_V1, gptq(grid)), (GPTQ_V2, gptq(grid, minus=0)), (AWQ, awq(grid))):
        tensors = opened(scratch, settings, pieces)
        assert_carries(tensors, grid)
        assert tensors.read_quantized("w.weight", (32, 64)).zero_points is None


def test_columns_in_order_have_no_order(scratch: Path) -> None:
    matrix = opened(scratch, GPTQ_V1, gptq(random_grid(32, 64))).read_quantized("w.weight", (32, 64))
    assert matrix.order is None
    matrix = opened(scratch, GPTQ_V1, gptq(random_grid(32, 64, shuffled=True))).read_quantized("w.weight", (32, 64))
    assert matrix.order is not None


@pytest.mark.parametrize(
    ("group_size", "block_size"), [(16, 16), (32, 32), (48, 16), (96, 32), (128, 128), (512, 128), (-1, 128)]
)
def test_a_block_is_the_largest_that_lies_in_one_group(scratch: Path, group_size: int, block_size: int) -> None:
    grid = random_grid(32, 768, group_size=group_size)
    tensors = opened(scratch, GPTQ_V1 | {"group_size": group_size}, gptq(grid))
    assert tensors.read_quantized("w.weight", (32, 768)).block_size == block_size


@pytest.mark.parametrize("bits", [4, 8])
def test_a_zero_point_of_zero_that_gptqmodel_borrowed_for_is_given_back(scratch: Path, bits: int) -> None:
    grid = random_grid(32, 64, bits=bits, lowest=0)
    grid.zero_points[0, [0, 5, 6, 31]] = 0
    grid.zero_points[1, :] = 0
    ones = np.uint32(word([1] * (32 // bits), bits))
    words = words_across(grid.zero_points, bits).view(np.uint32) - ones
    assert_carries(opened(scratch, BY_GPTQMODEL, gptq(grid, minus=0) | {"qzeros": words.view(np.int32)}), grid)


def test_a_zero_point_that_another_program_lost_is_refused(scratch: Path) -> None:
    pieces = gptq(random_grid(32, 64))
    pieces["qzeros"][1, 2] = -1
    with pytest.raises(UnsupportedModel, match=r"w: a stored zero point of 15 means 0 or 16.*gptq_v2"):
        opened(scratch, GPTQ_V1, pieces).read("w.weight", (32, 64))


def test_plain_tensors_stay_as_they_are(scratch: Path) -> None:
    norm, bias = np.arange(3, dtype=np.float32), np.arange(32, dtype=np.float16)
    tensors = opened(scratch, AWQ, awq(random_grid(32, 64)), **{"norm.weight": norm, "w.bias": bias})
    assert tensors.names() == {"w.weight", "w.bias", "norm.weight"}
    assert not tensors.is_quantized("norm.weight")
    np.testing.assert_array_equal(tensors.read("norm.weight", (3,)), norm)
    np.testing.assert_array_equal(tensors.read("w.bias", (32,)), bias.astype(np.float32))
    assert tensors.num_bytes == 32 * 64 // 2 + 2 * 32 // 2 + 2 * 32 * 2 + 12 + 64
    with pytest.raises(CheckpointError, match=r"'norm\.weight' is stored as numbers"):
        tensors.read_quantized("norm.weight", (3, 1))


# What the device computes


def product(tensors: PackedTensors, x: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    matrix = tensors.read_quantized("w.weight", (rows, x.shape[1]))
    pieces = tensors_of(matrix)
    shape = {"K": x.shape[1], "N": rows, "bits": matrix.bits, "block_size": matrix.block_size}
    x = x if matrix.order is None else x[:, matrix.order]
    return run_node("MatMulNBits", x, pieces, ["x", *pieces], **shape, accuracy_level=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [16, 48, 64, -1])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_device_multiplies_by_the_gptq_matrix(scratch: Path, bits: int, group_size: int, shuffled: bool) -> None:
    grid = random_grid(32, 200, bits=bits, group_size=group_size, shuffled=shuffled)
    x = np.random.default_rng(1).standard_normal((3, 200)).astype(np.float32)
    y = product(opened(scratch, GPTQ_V1 | {"group_size": group_size}, gptq(grid)), x, 32)
    wanted = x.astype(np.float64) @ grid.matrix().T
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_device_multiplies_by_the_awq_matrix(scratch: Path) -> None:
    grid = random_grid(24, 100, lowest=0)
    x = np.random.default_rng(1).standard_normal((3, 100)).astype(np.float32)
    wanted = x.astype(np.float64) @ grid.matrix().T
    y = product(opened(scratch, AWQ, awq(grid)), x, 24)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "compressed-tensors"}, "'compressed-tensors' is not supported.*before quantization"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"quant_method": "fp8"}, "'fp8'"),
        ({"quant_method": "hqq"}, "'hqq'"),
        ({"bits": 4}, "quantization_config: None"),
        (GPTQ_V1 | {"checkpoint_format": "marlin"}, "gptq: format 'marlin'"),
        (GPTQ_V1 | {"checkpoint_format": None, "format": "bitblas"}, "gptq: format 'bitblas'"),
        (GPTQ_V1 | {"is_marlin_format": True}, "gptq: format 'marlin'"),
        (GPTQ_V1 | {"pack_dtype": "int8"}, "gptq: pack_dtype 'int8'"),
        (AWQ | {"version": "GEMV"}, "awq: version 'gemv'"),
        (AWQ | {"version": "exllama"}, "awq: version 'exllama'"),
        (AWQ | {"version": None, "format": "marlin"}, "awq: version 'marlin'"),
        (AWQ | {"backend": "llm-awq"}, "awq: backend 'llm-awq'"),
        (AWQ | {"zero_point": False}, "awq: zero_point False"),
        (AWQ | {"bits": 8}, "awq: bits 8"),
    ],
)
def test_other_formats_are_refused_by_name(scratch: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        opened(scratch, settings, awq(random_grid(32, 64)))


@pytest.mark.parametrize("bits", [2, 3])
def test_gptq_of_other_widths_is_refused_by_name(scratch: Path, bits: int) -> None:
    pieces: Arrays = {
        "qweight": np.zeros((64 * bits // 32, 32), np.int32),
        "qzeros": np.zeros((2, bits), np.int32),
        "scales": np.ones((2, 32), np.float16),
    }
    with pytest.raises(UnsupportedModel, match=f"w: {bits} bits per weight"):
        opened(scratch, GPTQ_V1 | {"bits": bits}, pieces)


@pytest.mark.parametrize("settings", ["gptq", [4], GPTQ_V1 | {"group_size": 0}, AWQ | {"group_size": None}])
def test_settings_that_are_none_are_refused(scratch: Path, settings: Any) -> None:
    with pytest.raises(CheckpointError, match=r"quantization_config.*(an object|group_size)"):
        opened(scratch, settings, awq(random_grid(32, 64)))


@pytest.mark.parametrize("group_size", [8, 24, 100])
def test_groups_that_no_blocks_fill_are_refused_by_name(scratch: Path, group_size: int) -> None:
    tensors = opened(scratch, AWQ | {"group_size": group_size}, awq(random_grid(32, 200, group_size=group_size)))
    with pytest.raises(UnsupportedModel, match=rf"w\.weight: groups of .*{group_size} columns"):
        tensors.read("w.weight", (32, 200))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qweight": np.zeros((3, 5), np.int32)}, r"do not fit: qweight \[3, 5\], qzeros \[2, 4\], scales \[2, 32\]"),
        ({"qzeros": np.zeros((3, 4), np.int32)}, "do not fit"),
        ({"qzeros": np.zeros(4, np.int32)}, "do not fit"),
        ({"qzeros": np.zeros((2, 5), np.int32)}, "do not fit|w: 5 bits"),
        ({"scales": np.ones((2, 40), np.float16)}, "do not fit"),
        ({"scales": np.zeros((2, 0), np.float16)}, "do not fit"),
    ],
)
@pytest.mark.parametrize(("settings", "pack"), [(GPTQ_V1, gptq), (AWQ, awq)])
def test_pieces_that_do_not_fit_are_refused(
    scratch: Path, settings: dict[str, object], pack: Callable[[Grid], Arrays], change: Arrays, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        tensors = opened(scratch, settings, pack(random_grid(32, 64)) | change)
        tensors.read("w.weight", tensors.shape("w.weight"))


@pytest.mark.parametrize("piece", ["qzeros", "scales"])
def test_a_missing_piece_is_named(scratch: Path, piece: str) -> None:
    pieces = gptq(random_grid(32, 64))
    del pieces[piece]
    with pytest.raises(CheckpointError, match=rf"no tensor 'w\.{piece}'"):
        opened(scratch, GPTQ_V1, pieces)


def test_another_number_of_groups_than_config_json_tells_is_refused(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match="64 columns in groups of 16 need 4 groups, found 2"):
        opened(scratch, AWQ | {"group_size": 16}, awq(random_grid(32, 64)))


@pytest.mark.parametrize("groups", [[0] * 64, [0] * 63 + [2], [-1] + [0] * 32 + [1] * 31])
def test_group_indices_without_their_scales_are_refused(scratch: Path, groups: list[int]) -> None:
    tensors = opened(scratch, GPTQ_V1, gptq(random_grid(32, 64)) | {"g_idx": np.array(groups, np.int32)})
    with pytest.raises(CheckpointError, match=r"'w\.g_idx' names other groups than the 2"):
        tensors.read("w.weight", (32, 64))


def test_words_of_another_width_are_refused(scratch: Path) -> None:
    pieces = gptq(random_grid(32, 64))
    tensors = opened(scratch, GPTQ_V1, pieces | {"qweight": pieces["qweight"].astype(np.int64)})
    with pytest.raises(CheckpointError, match=r"'w\.qweight' is stored as int64, wanted int32"):
        tensors.read("w.weight", (32, 64))


def test_another_shape_than_config_json_asks_for_is_refused(scratch: Path) -> None:
    tensors = opened(scratch, AWQ, awq(random_grid(32, 64)))
    with pytest.raises(CheckpointError, match=r"'w\.weight' has shape \[32, 64\], wanted \[64, 32\]"):
        tensors.read_quantized("w.weight", (64, 32))


# Integers of a file


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint8])
def test_integers_are_read_as_they_are_stored(scratch: Path, dtype: type) -> None:
    limits = np.iinfo(dtype)
    values = np.array([[limits.min, 0, 1], [2, 3, limits.max]], dtype)
    save_file({"i": values, "f": np.ones(2, np.float32)}, scratch)
    tensors = StoredTensors(safetensors_in(scratch))
    np.testing.assert_array_equal(tensors.read_integers("i", (2, 3)), values, strict=True)
    with pytest.raises(CheckpointError, match=r"'i' is stored as .*before quantization"):
        tensors.read("i", (2, 3))
    with pytest.raises(CheckpointError, match="'f' is stored as 'F32', wanted one of I64, I32, I16, U8"):
        tensors.read_integers("f", (2,))
    with pytest.raises(CheckpointError, match=r"'i' has shape \[2, 3\], wanted \[3, 2\]"):
        tensors.read_integers("i", (3, 2))


def test_integers_of_a_torch_file_are_read_as_they_are_stored(tmp_path: Path) -> None:
    values = np.array([[-5, 0, 1 << 30]], np.int32)
    torch.save({"i": torch.from_numpy(values)}, tmp_path / "weights.bin")
    tensors = StoredTensors(torch_tensors_in(tmp_path / "weights.bin"))
    np.testing.assert_array_equal(tensors.read_integers("i", (1, 3)), values, strict=True)


# An order of columns


def test_an_order_says_where_the_stored_columns_belong() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    order = np.random.default_rng(1).permutation(40)
    matrix = replace(quantize(weight[:, order], bits=8, block_size=16), order=order)
    np.testing.assert_allclose(matrix.dequantize(), weight, atol=0.02)
    assert matrix.num_bytes == replace(matrix, order=None).num_bytes + 40 * 8


@pytest.mark.parametrize("order", [np.arange(39), np.zeros(40, np.int64), np.arange(1, 41), np.arange(40.0)])
def test_an_order_that_is_no_permutation_is_refused(order: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="the order of 40 columns holds each of 0 to 39 once"):
        replace(quantize(np.ones((3, 40), np.float32), bits=8, block_size=16), order=order)


# End to end

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=20).tolist())


def with_float_inputs(bundle: Path, target: Path) -> Path:
    """The same bundle, whose products round only their weights; by default the device rounds the inputs to 8 bits."""
    shutil.copytree(bundle, target)
    for path in target.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
            if attribute.name == "accuracy_level":
                attribute.i = 0
        path.write_bytes(model.SerializeToString())
    return fit_manifest(target)


def prompt_logits(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


@pytest.mark.parametrize(
    ("settings", "shuffled"),
    [(GPTQ_V1, False), (GPTQ_V1 | {"desc_act": True}, True), (GPTQ_V1 | {"bits": 8}, False), (AWQ, False)],
    ids=["gptq", "gptq, desc_act", "gptq, 8 bit", "awq"],
)
def test_a_packed_checkpoint_gives_the_logits_of_its_numbers(
    settings: dict[str, Any],
    shuffled: bool,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_logits: Callable[[Path, tuple[int, ...]], NDArray[np.float32]],
) -> None:
    plain = make_checkpoint("llama", **WIDE)
    stored, numbers = {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        if "_proj" not in name:
            stored[name] = numbers[name] = weight
            continue
        grid = rounded(weight, bits=settings["bits"], group_size=32, shuffled=shuffled)
        pieces = (gptq if settings["quant_method"] == "gptq" else awq)(grid)
        stored |= {f"{name.removesuffix('weight')}{piece}": array for piece, array in pieces.items()}
        numbers[name] = grid.matrix()
    bundle = make_bundle(write_checkpoint(tmp_path / "packed", plain, stored, quantization_config=settings))
    wanted = reference_logits(write_checkpoint(tmp_path / "numbers", plain, numbers), TOKEN_IDS)
    np.testing.assert_allclose(prompt_logits(with_float_inputs(bundle, tmp_path / "float")), wanted, rtol=0, atol=1e-4)
    assert np.linalg.norm(prompt_logits(bundle) - wanted) < 0.06 * np.linalg.norm(wanted)


def test_a_packed_checkpoint_is_opened_as_one(tmp_path: Path) -> None:
    save_file({f"w.{name}": array for name, array in awq(random_grid(32, 64)).items()}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": AWQ}))
    assert open_checkpoint(tmp_path).tensors.is_quantized("w.weight")
