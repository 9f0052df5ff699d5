"""Signed integers with one scale for each output."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.quant import quantize, whole_rows


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 99), size=st.sampled_from([1e-3, 1, 1e4])
)
def test_a_weight_is_half_a_step_off_at_most(rows: int, columns: int, seed: int, size: float) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((rows, columns)) * size).astype(np.float32)
    found = whole_rows(matrix)
    assert found.values.dtype == np.int8 and np.abs(found.values.astype(int)).max() == 127
    assert (np.abs(found.dequantize() - matrix) <= found.scales[:, None] * 0.5001).all()


def test_a_row_of_zeros_stays_zeros() -> None:
    assert not whole_rows(np.zeros((2, 8), np.float32)).dequantize().any()


def test_integers_of_blocks_are_read_as_numbers_first() -> None:
    blocks = quantize(np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32), bits=4, block_size=32)
    assert np.array_equal(whole_rows(blocks).values, whole_rows(blocks.dequantize()).values)
