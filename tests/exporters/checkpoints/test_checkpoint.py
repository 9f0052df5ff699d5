"""Checkpoints on disk: what is read is what was written, and every damage has its own sentence."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints import StoredTensors, open_checkpoint, safetensors_in

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n"
WEIGHTS: dict[str, NDArray[np.float32]] = {
    "embed.weight": np.arange(12, dtype=np.float32).reshape(4, 3) - 5.5,
    "norm.weight": np.array([0.5, -2.0, 65280.0], dtype=np.float32),
    "scale": np.array(3.0, dtype=np.float32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def write_shards(folder: Path, name: str, shards: Sequence[Mapping[str, Any]], save: Callable[..., None]) -> None:
    """Write each mapping as one shard, and the index beside them."""
    stem, suffix = name.split(".")
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        save(dict(shard), folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_all(folder: Path) -> dict[str, NDArray[np.float32]]:
    tensors = open_checkpoint(folder).tensors
    return {name: tensors.read(name, tensors.shape(name)) for name in tensors.names()}


def assert_same(found: Mapping[str, NDArray[np.float32]], wanted: Mapping[str, NDArray[np.float32]]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == np.float32 and found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array, strict=True)


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[object], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# Values


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_every_float_dtype_reads_back_as_the_same_numbers(folder: Path, dtype: type) -> None:
    stored = {name: np.asarray(array / 4, dtype=dtype) for name, array in WEIGHTS.items()}
    save_file(stored, folder / "model.safetensors")
    assert_same(read_all(folder), {name: np.asarray(array, dtype=np.float32) for name, array in stored.items()})


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_finite_16_bit_pattern_reads_as_its_number(folder: Path, dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(ml_dtypes.bfloat16 if dtype == "BF16" else np.float16)
    finite = values[np.isfinite(values.astype(np.float32))]
    save_file({"all": finite}, folder / "model.safetensors")
    assert_same(read_all(folder), {"all": finite.astype(np.float32)})


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_a_tensor_of_many_pieces_and_a_rest_reads_whole(folder: Path, dtype: type) -> None:
    values = (np.arange(1_200_007) % 251).astype(dtype)
    save_file({"first": np.ones(3, dtype=np.float16), "long": values}, folder / "model.safetensors")
    assert_same(read_all(folder), {"first": np.ones(3, np.float32), "long": values.astype(np.float32)})


def test_a_file_without_alignment_reads_the_same(folder: Path) -> None:
    header = {"a": entry("F16", [1], 0, 2), "b": entry("F32", [1], 2, 6)}
    data = struct.pack("<ef", 1.5, -7.25)
    for padding in range(8):
        text = json.dumps(header).encode() + b" " * padding
        (folder / "model.safetensors").write_bytes(raw_safetensors(text, data))
        assert_same(read_all(folder), {"a": np.float32([1.5]), "b": np.float32([-7.25])})


def test_reading_takes_little_more_memory_than_the_result(folder: Path) -> None:
    save_file({"w": np.ones((1024, 1024), dtype=ml_dtypes.bfloat16)}, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    tracemalloc.start()
    try:
        result = tensors.read("w", (1024, 1024))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.nbytes <= peak_bytes < 2 * result.nbytes


def test_num_bytes_counts_what_is_stored(folder: Path) -> None:
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16)}, folder / "model.safetensors")
    assert open_checkpoint(folder).tensors.num_bytes == 2 * 3 * 4 + 5 * 2


def test_names_and_shapes_are_known_without_reading(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    assert tensors.names() == WEIGHTS.keys()
    assert {name: tensors.shape(name) for name in WEIGHTS} == {name: array.shape for name, array in WEIGHTS.items()}


def test_shards_read_as_the_single_file(folder: Path) -> None:
    first, *rest = WEIGHTS
    write_shards(folder, "model.safetensors", [{first: WEIGHTS[first]}, {k: WEIGHTS[k] for k in rest}], save_file)
    assert_same(read_all(folder), WEIGHTS)


# Settings


def test_settings_and_places_are_kept(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.generation_config == {"eos_token_id": 2}
    assert checkpoint.path == folder and checkpoint.source == str(folder)


def test_generation_config_may_be_absent(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    assert open_checkpoint(folder).generation_config == {}


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, LFS_POINTER, b"[1]"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_damaged_json_is_refused_by_name(folder: Path, name: str, text: bytes) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (folder / name).write_bytes(text)
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("source", ["gpt2", "a/b/c", "./a", "a/..", "x" * 5000, "a\0b"])
def test_what_is_neither_folder_nor_hub_id_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder|cannot be read"):
        open_checkpoint(source)


def test_a_weight_file_is_not_a_checkpoint(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a file: pass the folder"):
        open_checkpoint(folder / "model.safetensors")


def test_a_revision_does_not_apply_to_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'main' does not apply"):
        open_checkpoint(folder, revision="main")


# One tensor


def test_a_missing_tensor_is_named_with_its_neighbours(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    with pytest.raises(CheckpointError, match=r"no tensor 'embed\.weigth': the nearest names are 'embed\.weight'"):
        tensors.read("embed.weigth", (4, 3))
    with pytest.raises(CheckpointError, match="no tensor 'q#q': it has 3 others"):
        tensors.shape("q#q")


def test_a_wrong_shape_says_what_was_found_and_wanted(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has shape \[4, 3\], wanted \[3, 4\]"):
        open_checkpoint(folder).tensors.read("embed.weight", (3, 4))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_counted(folder: Path, dtype: type) -> None:
    save_file({"w": np.array([[1, np.nan], [np.inf, -np.inf]], dtype=dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="'w' holds 3 NaN or infinite values among 4"):
        open_checkpoint(folder).tensors.read("w", (2, 2))


def test_float64_beyond_float32_is_refused(folder: Path) -> None:
    save_file({"w": np.array([1e300, 1.0])}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="'w' holds 1 NaN or infinite"):
        open_checkpoint(folder).tensors.read("w", (2,))


@pytest.mark.parametrize(("dtype", "num_bytes"), [("I8", 4), ("I64", 32), ("BOOL", 4), ("F8_E4M3", 4), ("F4", 2)])
def test_other_dtypes_are_refused_only_when_they_are_read(folder: Path, dtype: str, num_bytes: int) -> None:
    header = {"mask": entry(dtype, [4], 0, num_bytes), "w": entry("F32", [1], num_bytes, num_bytes + 4)}
    data = bytes(num_bytes) + struct.pack("<f", 2.0)
    (folder / "model.safetensors").write_bytes(raw_safetensors(header, data))
    tensors = open_checkpoint(folder).tensors
    assert tensors.read("w", (1,)) == [2.0]
    with pytest.raises(CheckpointError, match=f"'mask' is stored as '{dtype}'"):
        tensors.read("mask", (4,))


def test_an_empty_tensor_is_refused_only_when_it_is_read(folder: Path) -> None:
    save_file({"a": np.ones(2, np.float32), "empty": np.ones((0, 3), np.float32)}, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    assert tensors.read("a", (2,)).tolist() == [1, 1]
    with pytest.raises(CheckpointError, match=r"'empty' has shape \[0, 3\] and holds no values"):
        tensors.read("empty", (0, 3))


def test_a_file_that_shrinks_after_opening_is_refused(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    os.truncate(folder / "model.safetensors", 40)
    with pytest.raises(CheckpointError, match="became shorter"):
        tensors.read("embed.weight", (4, 3))


# Damaged safetensors


def test_every_truncation_is_refused_at_open(folder: Path) -> None:
    whole = save(WEIGHTS)
    for num_bytes in range(len(whole)):
        (folder / "model.safetensors").write_bytes(whole[:num_bytes])
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*expected .*bytes, found {num_bytes}"):
            open_checkpoint(folder)


def test_a_longer_file_is_refused(folder: Path) -> None:
    whole = save(WEIGHTS)
    (folder / "model.safetensors").write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match=f"longer than its header says: expected {len(whole)} bytes"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognised(folder: Path, name: str) -> None:
    (folder / name).write_bytes(LFS_POINTER)
    with pytest.raises(CheckpointError, match=f"{name}: is a git-lfs pointer, not weights: run git lfs pull"):
        open_checkpoint(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        open_checkpoint(folder)


HEADERS: dict[str, tuple[object, str]] = {
    "not JSON": (b"{,", "header is not JSON"),
    "nested too deep": (b"[" * 100_000, "header is not JSON"),
    "a number too long": (b'{"w": ' + b"9" * 5000 + b"}", "header is not JSON"),
    "a list": ([1], "not a JSON object"),
    "an entry that is no object": ({"w": 3}, "entry for tensor 'w'"),
    "no shape": ({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, "entry for tensor 'w'"),
    "a negative size": ({"w": entry("F32", [-1, -2], 0, 8)}, "entry for tensor 'w'"),
    "a size that is a bool": ({"w": entry("F32", [True, 2], 0, 8)}, "entry for tensor 'w'"),
    "a size that is no integer": ({"w": entry("F32", [2.0], 0, 8)}, "entry for tensor 'w'"),
    "a size beyond 64 bits": ({"w": entry("F32", [0, 1 << 70], 0, 0)}, "entry for tensor 'w'"),
    "too many dimensions": ({"w": entry("F32", [1] * 100 + [2], 0, 8)}, "entry for tensor 'w'"),
    "offsets in reverse": ({"w": entry("F32", [2], 8, 0)}, "entry for tensor 'w'"),
    "more bytes than the shape": ({"w": entry("F32", [1], 0, 8)}, "expected 4 bytes, found 8"),
    "fewer bytes than the shape": ({"w": entry("F32", [1 << 62, 1 << 62], 0, 8)}, "expected .* bytes, found 8"),
    "an overlap": ({"v": entry("F16", [3], 0, 6), "w": entry("F16", [2], 4, 8)}, "'w' overlaps"),
    "a gap": ({"v": entry("F16", [1], 0, 2), "w": entry("F16", [2], 4, 8)}, "'w' leaves a gap"),
    "a gap at the start": ({"w": entry("F16", [2], 4, 8)}, "'w' leaves a gap"),
    "nothing for the data": ({}, "longer than its header says"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_breaks_the_format_is_refused(folder: Path, case: str) -> None:
    header, sentence = HEADERS[case]
    (folder / "model.safetensors").write_bytes(raw_safetensors(header, bytes(8)))
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(folder)


def test_a_header_longer_than_the_format_allows_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + bytes(100))
    with pytest.raises(CheckpointError, match="its header would be 1099511627776 bytes"):
        open_checkpoint(folder)


def slow_read(data: bytes, name: str) -> list[float]:
    """The obvious reader of an intact file: the header says where, struct says what."""
    (header_bytes,) = struct.unpack_from("<Q", data)
    info = json.loads(data[8 : 8 + header_bytes])[name]
    begin, end = (8 + header_bytes + offset for offset in info["data_offsets"])
    if info["dtype"] == "BF16":
        halves = struct.iter_unpack("<2s", data[begin:end])
        return [struct.unpack("<f", b"\0\0" + half)[0] for (half,) in halves]
    letter = {"F16": "e", "F32": "f", "F64": "d"}[info["dtype"]]
    return [value for (value,) in struct.iter_unpack(f"<{letter}", data[begin:end])]


def assert_refused_or_right(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        tensors = StoredTensors(safetensors_in(path))
    except CheckpointError:
        return
    for name in tensors.names():
        try:
            values = tensors.read(name, tensors.shape(name))
        except CheckpointError:
            continue
        np.testing.assert_array_equal(values.ravel(), np.array(slow_read(data, name), dtype=np.float32))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


@given(data=st.binary(max_size=200) | st.binary(max_size=60).map(raw_safetensors))
def test_random_bytes_are_refused_or_read_right(scratch: Path, data: bytes) -> None:
    assert_refused_or_right(scratch, data)


VALID = save(
    {"a": np.float32([[1, 2], [3, 4]]), "b": np.array([5, 6], dtype=ml_dtypes.bfloat16), "c": np.float16([7.5])},
    metadata={"format": "pt"},
)


DATA_START = 8 + int.from_bytes(VALID[:8], "little")


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1) | st.integers(DATA_START, len(VALID) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    )
)
def test_changed_bytes_are_refused_or_read_right(scratch: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for position, value in edits:
        data[position] = value
    assert_refused_or_right(scratch, bytes(data))


float_dtypes = st.sampled_from(["F64", "F32", "F16", "BF16"])
shapes = st.lists(st.integers(0, 4), max_size=3)


def side_by_side(tensors: Sequence[tuple[str, list[int]]]) -> tuple[dict[str, Any], int]:
    """A header that keeps the format, and how many bytes of data it describes."""
    header, end = {}, 0
    for number, (dtype, shape) in enumerate(tensors):
        begin, end = end, end + math.prod(shape) * {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}[dtype]
        header[f"t{number}"] = entry(dtype, [*shape], begin, end)
    return header, end


@given(tensors=st.lists(st.tuples(float_dtypes, shapes), max_size=4), seed=st.integers(0, 1000))
def test_every_layout_that_keeps_the_format_is_read(
    scratch: Path, tensors: list[tuple[str, list[int]]], seed: int
) -> None:
    header, num_bytes = side_by_side(tensors)
    data = np.random.default_rng(seed).integers(0, 0x3F, num_bytes, dtype=np.uint8).tobytes()  # no NaN in any dtype
    whole = raw_safetensors(header, data)
    scratch.write_bytes(whole)
    opened = StoredTensors(safetensors_in(scratch))
    assert opened.names() == header.keys()
    for name, info in header.items():
        if 0 not in info["shape"]:
            values = opened.read(name, tuple(info["shape"]))
            np.testing.assert_array_equal(values.ravel(), np.array(slow_read(whole, name), dtype=np.float32))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 20) | st.integers() | st.floats() | st.sampled_from(["F32", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    tensors=st.lists(st.tuples(float_dtypes, shapes), min_size=1, max_size=3),
    key=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=json_values | shapes,
)
def test_one_wrong_value_in_the_header_is_refused_or_read_right(
    scratch: Path, tensors: list[tuple[str, list[int]]], key: str, value: object
) -> None:
    header, num_bytes = side_by_side(tensors)
    header["t0"][key] = value
    assert_refused_or_right(scratch, raw_safetensors(header, bytes(num_bytes)))


@given(header=st.dictionaries(st.text(max_size=4), json_values, max_size=3), data=st.binary(max_size=24))
def test_any_json_in_the_header_is_refused_or_read_right(scratch: Path, header: dict[str, object], data: bytes) -> None:
    assert_refused_or_right(scratch, raw_safetensors(header, data))


# Shards


def test_a_missing_shard_is_named(folder: Path) -> None:
    write_shards(folder, "model.safetensors", [{"a": np.ones(1, np.float32)}, {"b": np.ones(1, np.float32)}], save_file)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 'model-00002-of-00002\.safetensors'"):
        open_checkpoint(folder)


def test_a_damaged_shard_is_named(folder: Path) -> None:
    write_shards(folder, "model.safetensors", [{"a": np.ones(1, np.float32)}, {"b": np.ones(1, np.float32)}], save_file)
    (folder / "model-00002-of-00002.safetensors").write_bytes(LFS_POINTER)
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: is a git-lfs pointer"):
        open_checkpoint(folder)


def test_an_index_that_lists_a_tensor_in_the_wrong_shard_is_refused(folder: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"b": "one.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"puts tensor 'b' into one\.safetensors"):
        open_checkpoint(folder)


def test_an_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "config.json").write_text("{}")
    save_file({"a": np.ones(1, np.float32)}, folder / "one.safetensors")
    (inner / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../one.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"lacks '\.\./one\.safetensors'"):
        open_checkpoint(inner)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_weight_map_is_refused(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="expected a weight_map"):
        open_checkpoint(folder)


# pytorch_model.bin


def as_torch(weights: Mapping[str, NDArray[np.float32]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array).to(dtype) for name, array in weights.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_torch_file_reads_as_the_same_numbers(folder: Path, dtype: torch.dtype) -> None:
    torch.save(as_torch(WEIGHTS, dtype), folder / "pytorch_model.bin")
    wanted = {name: tensor.float().numpy() for name, tensor in as_torch(WEIGHTS, dtype).items()}
    assert_same(read_all(folder), wanted)


def test_a_transposed_torch_tensor_reads_contiguous(folder: Path) -> None:
    torch.save({"w": torch.arange(6.0).reshape(2, 3).T}, folder / "pytorch_model.bin")
    assert_same(read_all(folder), {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T.copy()})


def test_a_torch_file_of_the_old_format_reads_too(folder: Path) -> None:
    weights = as_torch(WEIGHTS, torch.float32)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(read_all(folder), WEIGHTS)


def test_torch_shards_read_as_the_single_file(folder: Path) -> None:
    first, *rest = weights = as_torch(WEIGHTS, torch.float32)
    write_shards(folder, "pytorch_model.bin", [{first: weights[first]}, {k: weights[k] for k in rest}], torch.save)
    assert_same(read_all(folder), WEIGHTS)


def test_changing_what_was_read_does_not_change_the_torch_file(folder: Path) -> None:
    torch.save(as_torch(WEIGHTS, torch.float32), folder / "pytorch_model.bin")
    tensors = open_checkpoint(folder).tensors
    tensors.read("norm.weight", (3,))[:] = 0
    np.testing.assert_array_equal(tensors.read("norm.weight", (3,)), WEIGHTS["norm.weight"])


def test_torch_num_bytes_counts_what_is_stored(folder: Path) -> None:
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}, folder / "pytorch_model.bin")
    assert open_checkpoint(folder).tensors.num_bytes == 2 * 3 * 4 + 5 * 2


def test_safetensors_win_over_a_torch_file(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    save_file(WEIGHTS, folder / "model.safetensors")
    assert_same(read_all(folder), WEIGHTS)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.ones(2, dtype=torch.int8), "int8"),
        (torch.ones(2, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(2).to_sparse(), "sparse_coo float32"),
    ],
)
def test_other_torch_dtypes_are_refused_by_name(folder: Path, tensor: torch.Tensor, dtype: str) -> None:
    torch.save({"w": tensor}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"'w' is stored as '{dtype}'"):
        open_checkpoint(folder).tensors.read("w", (2,))


class Harmful:
    """Unpickling this object would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_torch_file_is_not_run(folder: Path) -> None:
    torch.save({"w": torch.ones(1), "x": Harmful(folder / "made")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="torch cannot read it"):
        open_checkpoint(folder)
    assert not (folder / "made").exists()


def test_a_damaged_torch_file_is_refused(folder: Path) -> None:
    torch.save(as_torch(WEIGHTS, torch.float32), folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    for damaged in (b"", b"garbage", whole[: len(whole) // 2], whole[:-1]):
        (folder / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: torch cannot read it"):
            open_checkpoint(folder)


@pytest.mark.parametrize("state", [[torch.ones(1)], {"state": {"w": torch.ones(1)}}, {}])
def test_a_torch_file_without_named_tensors_is_refused(folder: Path, state: object) -> None:
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors"):
        open_checkpoint(folder)


def test_without_torch_a_torch_file_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(as_torch(WEIGHTS, torch.float32), folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"needs torch: pip install skipstone\[train\], or convert"):
        open_checkpoint(folder)


def test_safetensors_are_read_without_importing_torch(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    program = (
        "import sys; from skipstone.exporters.checkpoints.opening import open_checkpoint\n"
        "open_checkpoint(sys.argv[1]).tensors.read('norm.weight', (3,))\n"
        "print({'torch', 'huggingface_hub'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_weights_the_names_looked_for_are_listed(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights: looked for model\.safetensors, .*pytorch_model\.bin"):
        open_checkpoint(folder)
