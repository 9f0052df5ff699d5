"""Packing: what goes in comes out, in the order of the file format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skipstone.quant import pack, unpack


@settings(deadline=None)
@given(data=st.data(), bits=st.sampled_from([2, 4, 8]), shape=array_shapes(min_dims=1, max_dims=3, max_side=9))
def test_unpack_gives_back_what_was_packed(data: st.DataObject, bits: int, shape: tuple[int, ...]) -> None:
    values = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = pack(values, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), values)


def test_the_first_of_two_values_is_in_the_low_nibble() -> None:
    assert pack(np.array([1, 2, 3], np.uint8), 4).tolist() == [0x21, 0x03]


def test_the_first_of_four_values_is_in_the_lowest_bits() -> None:
    assert pack(np.array([1, 2, 3, 0, 2], np.uint8), 2).tolist() == [0b00_11_10_01, 0b10]


def test_eight_bits_are_bytes() -> None:
    assert pack(np.array([1, 255], np.uint8), 8).tolist() == [1, 255]


@pytest.mark.parametrize("bits", [0, 3, 5, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="choose one of 2, 4, 8"):
        pack(np.zeros(2, np.uint8), bits)
    with pytest.raises(ValueError, match="choose one of 2, 4, 8"):
        unpack(np.zeros(2, np.uint8), bits, 2)
