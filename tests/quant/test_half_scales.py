"""Scales in 16 bits: what fits is kept exactly, what nearly fits is rounded, what is too far apart stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from skipstone.quant.half_scales import half_exponent, halved

Floats = NDArray[np.float32]
SCALES = arrays(np.float32, st.integers(1, 9), elements=st.floats(2.0**-90, 2.0**90, width=32))
HALVES = arrays(np.float16, st.integers(1, 9), elements=st.floats(-60000, 60000, width=16))


def restored(scales: Floats, exponent: int) -> Floats:
    halves = (scales.astype(np.float64) * 2.0**-exponent).astype(np.float16)
    return (halves.astype(np.float64) * 2.0**exponent).astype(np.float32)


@given(halves=HALVES, exponent=st.integers(-100, 100))
@example(halves=np.array([32770, 6e-8], np.float16), exponent=1)
@example(halves=np.array([32770, 2047 * 2.0**-24], np.float16), exponent=1)
def test_halves_times_any_power_of_two_are_found(halves: NDArray[np.float16], exponent: int) -> None:
    scales = (halves.astype(np.float64) * 2.0**exponent).astype(np.float32)
    found = half_exponent(scales)
    assert found is not None
    np.testing.assert_array_equal(restored(scales, found), scales)
    if exponent == 0:
        assert found == 0
    np.testing.assert_array_equal(halved(scales), scales)


@given(scales=SCALES)
def test_scales_are_rounded_by_a_part_in_two_thousand_or_left(scales: Floats) -> None:
    rounded = halved(scales)
    assert (np.abs(rounded - scales) <= 2.0**-11 * scales).all()
    if scales.max() <= 2.0**27 * scales.min():
        assert half_exponent(rounded) is not None


def test_scales_too_far_apart_have_no_exponent() -> None:
    scales = np.array([1.0, 1.001 * 2.0**-40], np.float32)
    assert half_exponent(scales) is None
    np.testing.assert_array_equal(halved(scales), scales)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays(value: float) -> None:
    scales = np.array([1.0, value], np.float32)
    assert half_exponent(scales) is None
    np.testing.assert_array_equal(halved(scales), scales)


def test_zeros_fit() -> None:
    assert half_exponent(np.zeros(3, np.float32)) == 0
