"""ONNX Runtime computes with the numbers that `dequantize` returns."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nodes import run_node, tensors_of

from skipstone.quant import QuantizedMatrix, quantize

FORMATS = pytest.mark.parametrize(
    ("bits", "symmetric"),
    [(2, True), (2, False), (4, True), (4, False), (8, True), (8, False)],
    ids=["2s", "2a", "4s", "4a", "8s", "8a"],
)
COLUMNS = pytest.mark.parametrize("columns", [128, 96, 100, 33, 8])
BLOCKS = pytest.mark.parametrize("block_size", [16, 32, 128])


def random_matrix(columns: int, bits: int, block_size: int, symmetric: bool) -> QuantizedMatrix:
    weight = np.random.default_rng(columns).standard_normal((17, columns)).astype(np.float32)
    return quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric)


@FORMATS
@COLUMNS
@BLOCKS
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("accuracy_level", [0, 1])
def test_matmul_multiplies_by_the_dequantized_matrix(
    bits: int, symmetric: bool, columns: int, block_size: int, rows: int, accuracy_level: int
) -> None:
    matrix = random_matrix(columns, bits, block_size, symmetric)
    x = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    tensors = tensors_of(matrix)
    shape = {"K": columns, "N": 17, "bits": bits, "block_size": block_size, "accuracy_level": accuracy_level}
    y = run_node("MatMulNBits", x, tensors, ["x", *tensors], **shape)
    expected = x.astype(np.float64) @ matrix.dequantize().T
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@FORMATS
@COLUMNS
@BLOCKS
def test_gather_reads_the_same_bytes_as_rows(bits: int, symmetric: bool, columns: int, block_size: int) -> None:
    matrix = random_matrix(columns, bits, block_size, symmetric)
    tensors = {**tensors_of(matrix), "data": matrix.data.reshape(17, -1)}
    ids = np.array([[3, 0], [16, 3]], np.int64)
    shape = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
    y = run_node("GatherBlockQuantized", ids, tensors, ["data", "x", *list(tensors)[1:]], **shape)
    np.testing.assert_array_equal(y[..., :columns], matrix.dequantize()[ids])
    assert y.shape[-1] == matrix.data.shape[1] * block_size
    assert not y[..., columns:].any()


@pytest.mark.parametrize("bits", [2, 4, 8])
@COLUMNS
@BLOCKS
def test_gather_reads_the_matmul_tensor_itself_without_zero_points(bits: int, columns: int, block_size: int) -> None:
    matrix = random_matrix(columns, bits, block_size, symmetric=True)
    tensors = {"data": matrix.data, "scales": matrix.scales[:, :, None]}
    ids = np.array([[3, 0], [16, 3]], np.int64)
    shape = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 2}
    y = run_node("GatherBlockQuantized", ids, tensors, ["data", "x", "scales"], **shape)
    assert y.shape == (2, 2, matrix.data.shape[1], block_size)
    np.testing.assert_array_equal(y.reshape(2, 2, -1)[..., :columns], matrix.dequantize()[ids])
