"""Block-wise integers: small errors, exact zeros, and nothing that depends on luck."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from skipstone.quant import QuantizedMatrix, quantize

Floats = NDArray[np.float32]
ANY_WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 70)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)
OPTIONS = st.fixed_dictionaries(
    {"bits": st.sampled_from([2, 4, 8]), "block_size": st.sampled_from([16, 32, 64]), "symmetric": st.booleans()}
)


def random_weights(kind: str, shape: tuple[int, int], seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    drawn = {"gaussian": rng.standard_normal, "heavy": lambda size: rng.standard_t(2, size)}[kind](shape)
    return drawn.astype(np.float32)


def squared_error(weight: Floats, matrix: QuantizedMatrix, importance: Floats | float = 1.0) -> float:
    difference = matrix.dequantize().astype(np.float64) - weight
    return float((difference**2 * importance).sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_shapes_are_those_of_the_file_format(symmetric: bool) -> None:
    matrix = quantize(np.ones((5, 70), np.float32), bits=4, block_size=32, symmetric=symmetric)
    assert (matrix.data.shape, matrix.data.dtype) == ((5, 3, 16), np.uint8)
    assert (matrix.scales.shape, matrix.scales.dtype) == ((5, 3), np.float32)
    assert matrix.dequantize().shape == matrix.shape == (5, 70)
    if symmetric:
        assert matrix.zero_points is None
    else:
        assert matrix.zero_points is not None
        assert (matrix.zero_points.shape, matrix.zero_points.dtype) == ((5, 2), np.uint8)
    assert matrix.num_bytes == 5 * 3 * 16 + 5 * 3 * 2 + (0 if symmetric else 5 * 2)


@settings(deadline=None)
@given(weight=ANY_WEIGHTS, options=OPTIONS)
def test_search_is_never_worse_than_absmax(weight: Floats, options: dict[str, Any]) -> None:
    """Save for what rounding its scales to 16 bits moves, a part in two thousand of each weight, in both."""
    plain = squared_error(weight, quantize(weight, method="absmax", **options)) ** 0.5
    rounding = 2.1 * 2.0**-11 * float((weight.astype(np.float64) ** 2).sum()) ** 0.5
    assert squared_error(weight, quantize(weight, **options)) ** 0.5 <= plain * (1 + 1e-4) + rounding


@pytest.mark.parametrize("kind", ["gaussian", "heavy"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_four_bit_search_beats_absmax_clearly(kind: str, symmetric: bool) -> None:
    weight = random_weights(kind, (64, 512))
    weight /= np.abs(weight).reshape(64, -1, 32).max(axis=2).repeat(32, axis=1)
    plain = squared_error(weight, quantize(weight, bits=4, block_size=32, symmetric=symmetric, method="absmax"))
    assert squared_error(weight, quantize(weight, bits=4, block_size=32, symmetric=symmetric)) < 0.95 * plain


def best_error(block: NDArray[np.float64], highest: int, zero_points: range) -> float:
    """The smallest squared error of one block over a fine grid of scales of both signs: the slow, obvious search."""
    steps = np.abs(block).max() * np.linspace(0.6, 3.75, 800) / highest
    scales = np.concatenate([steps, -steps])[:, None]
    errors = []
    for zero_point in zero_points:
        levels = np.clip(np.rint(block / scales), -zero_point, highest - zero_point)
        errors.append(((block - levels * scales) ** 2).sum(axis=1).min())
    return min(errors)


@pytest.mark.parametrize("kind", ["gaussian", "heavy"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_search_is_within_two_percent_of_the_best(kind: str, symmetric: bool, bits: int) -> None:
    weight = random_weights(kind, (150, 16))
    weight /= np.abs(weight).max(axis=1, keepdims=True)
    middle, highest = 2 ** (bits - 1), 2**bits - 1
    zero_points = range(middle, middle + 1) if symmetric else range(highest + 1)
    best = sum(best_error(block, highest, zero_points) for block in weight.astype(np.float64))
    assert squared_error(weight, quantize(weight, bits=bits, block_size=16, symmetric=symmetric)) < 1.02 * best


def test_absmax_gives_the_largest_weight_the_lowest_level() -> None:
    weight = np.linspace(-0.5, 1, 32, dtype=np.float32)[None]
    matrix = quantize(weight, bits=4, block_size=32, method="absmax")
    assert matrix.scales.tolist() == [[-0.125]]
    np.testing.assert_array_equal(matrix.dequantize(), np.clip(np.rint(weight * -8), -8, 7) / -8)


def test_absmax_with_zero_points_covers_the_range() -> None:
    weight = np.linspace(-0.5, 1, 16, dtype=np.float32)[None]
    matrix = quantize(weight, bits=4, block_size=16, symmetric=False, method="absmax")
    assert matrix.zero_points is not None
    assert matrix.zero_points.tolist() == [[5]]
    np.testing.assert_allclose(matrix.dequantize(), weight, rtol=2.0**-11)


@pytest.mark.parametrize("symmetric", [True, False])
def test_importance_lowers_the_weighted_error(symmetric: bool) -> None:
    weight = random_weights("gaussian", (40, 300))
    importance = np.exp(np.random.default_rng(1).standard_normal(300)).astype(np.float32)
    plain = quantize(weight, bits=4, block_size=32, symmetric=symmetric)
    weighted = quantize(weight, bits=4, block_size=32, symmetric=symmetric, importance=importance)
    assert squared_error(weight, weighted, importance) < 0.95 * squared_error(weight, plain, importance)


def test_equal_or_no_importance_changes_nothing_much() -> None:
    weight = random_weights("gaussian", (20, 100))
    plain = squared_error(weight, quantize(weight, bits=4, block_size=32))
    equal = squared_error(weight, quantize(weight, bits=4, block_size=32, importance=np.full(100, 7, np.float32)))
    none = squared_error(weight, quantize(weight, bits=4, block_size=32, importance=np.zeros(100, np.float32)))
    absmax = squared_error(weight, quantize(weight, bits=4, block_size=32, method="absmax"))
    assert equal <= plain * (1 + 1e-5)
    assert none == pytest.approx(absmax)


@settings(deadline=None)
@given(options=OPTIONS, method=st.sampled_from(["search", "absmax"]))
def test_zeros_stay_exactly_zero(options: dict[str, Any], method: str) -> None:
    weight = random_weights("gaussian", (4, 128))
    weight[1:3] = 0
    matrix = quantize(weight, method=method, **options)
    assert not matrix.dequantize()[1:3].any()
    assert (matrix.scales[1:3] == 1).all()


@settings(deadline=None)
@given(weight=ANY_WEIGHTS, options=OPTIONS, exponent=st.sampled_from([-44, -38, -20, 0, 6]))
def test_the_result_is_finite_and_half_a_step_away(weight: Floats, options: dict[str, Any], exponent: int) -> None:
    with np.errstate(under="ignore"):
        weight = (weight * np.float64(10.0) ** exponent).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        values = quantize(weight, method="absmax", **options).dequantize()
    largest = np.abs(weight).max()
    # One side may be cut off by a whole step: the level +2**(bits - 1) does not exist. Scales are rounded to 16 bits.
    step = largest / 2 ** (options["bits"] - 1)
    assert (np.abs(values - weight) <= step * 1.01 + largest * 2.0**-10 + 1e-30).all()


@settings(deadline=None)
@given(weight=ANY_WEIGHTS, options=OPTIONS)
def test_search_raises_no_floating_point_warning(weight: Floats, options: dict[str, Any]) -> None:
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(quantize(weight, **options).dequantize()).all()


@pytest.mark.parametrize("num_rows", [1, 7, 39])
@pytest.mark.parametrize("method", ["search", "absmax"])
def test_chunks_of_rows_are_put_together_in_order(num_rows: int, method: str) -> None:
    weight = random_weights("gaussian", (40, 50))
    options: dict[str, Any] = {"bits": 4, "block_size": 16, "symmetric": False, "method": method}
    whole = quantize(weight, importance=np.arange(50, dtype=np.float32), **options)
    parts = quantize(weight, importance=np.arange(50, dtype=np.float32), chunk=50 * num_rows, **options)
    np.testing.assert_array_equal(whole.data, parts.data)
    np.testing.assert_array_equal(whole.zero_points, parts.zero_points)
    np.testing.assert_allclose(whole.scales, parts.scales, rtol=1e-5)


def test_views_are_taken_as_they_are_and_left_alone() -> None:
    weight = random_weights("gaussian", (64, 48))
    before = weight.copy()
    view = quantize(weight.T, bits=4, block_size=32)
    copy = quantize(np.ascontiguousarray(weight.T), bits=4, block_size=32)
    np.testing.assert_array_equal(view.data, copy.data)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e37])
@pytest.mark.parametrize("method", ["search", "absmax"])
def test_weights_that_are_not_numbers_are_refused(bad: float, method: str) -> None:
    weight = np.ones((3, 40), np.float32)
    weight[1, 35] = bad
    with pytest.raises(ValueError, match="check the checkpoint"):
        quantize(weight, bits=4, block_size=32, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits"),
        ({"block_size": 24}, "choose 16, 32"),
        ({"block_size": 8}, "choose 16, 32"),
        ({"method": "magic"}, "search, absmax"),
        ({"importance": np.ones(3, np.float32)}, r"importance \[40\]"),
        ({"importance": np.full(40, -1, np.float32)}, "negative"),
        ({"importance": np.full(40, np.nan, np.float32)}, "negative"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(np.ones((2, 40), np.float32), **{"bits": 4, "block_size": 32, **options})


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0), (2, 3, 4)])
def test_only_matrices_are_quantized(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a matrix"):
        quantize(np.ones(shape, np.float32), bits=4, block_size=32)
