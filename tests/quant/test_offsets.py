"""Offsets as more columns: the same product, up to what rounding the offsets loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipstone.quant import QuantizedMatrix, as_columns, quantize

LOST = {2: 0.4, 4: 0.09, 8: 0.006}  # root of the mean square, as a share of that of the offsets


def matrix_with_offsets(columns: int, bits: int, block_size: int, symmetric: bool) -> QuantizedMatrix:
    random = np.random.default_rng(columns)
    weight = random.standard_normal((9, columns)).astype(np.float32)
    matrix = quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric)
    shares = random.uniform(-0.5, 0.5, matrix.scales.shape)
    return replace(matrix, offsets=(shares * matrix.scales).astype(np.float32))


@pytest.mark.parametrize("columns", [64, 70, 1056])
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_inputs_and_their_sums_give_what_the_offsets_gave(
    columns: int, block_size: int, symmetric: bool, bits: int
) -> None:
    matrix = matrix_with_offsets(columns, bits, block_size, symmetric)
    assert matrix.offsets is not None
    wide = as_columns(matrix)
    inputs = np.random.default_rng(0).standard_normal((3, columns))
    blocks = np.pad(inputs, [(0, 0), (0, -columns % block_size)]).reshape(3, -1, block_size)
    with_sums = np.concatenate([blocks.reshape(3, -1), blocks.sum(axis=2)], axis=1)
    stored = wide.dequantize()
    assert wide.offsets is None
    assert stored.shape == wide.shape == (9, with_sums.shape[1])
    rounded = stored[:, -matrix.offsets.shape[1] :]
    assert np.linalg.norm(rounded - matrix.offsets) <= LOST[bits] * np.linalg.norm(matrix.offsets)
    expected = inputs @ replace(matrix, offsets=rounded).dequantize().T
    np.testing.assert_allclose(with_sums @ stored.T, expected, atol=1e-4)
