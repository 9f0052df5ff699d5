"""Columns that stay numbers: exact beside the integers, chosen by size, and made up for what others lose."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.quant import (
    QuantizedMatrix,
    TensorRecipe,
    beside_columns,
    beside_columns_by_inputs,
    gptq,
    hessian_error,
    largest_columns,
    quantize,
    take_rows,
)

FOUR = partial(quantize, bits=4, block_size=32, symmetric=False)
GPTQ = partial(gptq, bits=4, block_size=32)


def weights(rows: int = 24, columns: int = 100) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def hessian(columns: int = 100) -> NDArray[np.float64]:
    """Return that of inputs of which two are fifty times the others, and all are related."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, columns)) @ (np.eye(columns) + 0.1 * rng.normal(size=(columns, columns)))
    x[:, [7, 90]] *= 50
    return np.asarray(x.T @ x / 400, np.float64)


def test_the_largest_columns_are_taken_in_their_order() -> None:
    assert largest_columns(np.array([1.0, 5, 2, 5, 0]), 2).tolist() == [1, 3]
    assert largest_columns(np.array([1.0, 1, 1]), 2).tolist() == [0, 1]
    assert largest_columns(np.array([1.0, 2]), 0).tolist() == []


@pytest.mark.parametrize(("outliers", "count"), [(0, 0), (3, 3), (0.05, 5), (500, 100), (0.001, 0)])
def test_outliers_are_a_number_or_a_share(outliers: float, count: int) -> None:
    assert TensorRecipe(bits=4, outliers=outliers).num_outliers(100) == count


@pytest.mark.parametrize("outliers", [-1, 1.5, float("nan"), float("inf")])
def test_other_numbers_are_refused(outliers: float) -> None:
    with pytest.raises(ValueError, match="number of columns or a share"):
        TensorRecipe(bits=4, outliers=outliers)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kept_columns_are_near_and_the_others_as_without_them(bits: int, symmetric: bool) -> None:
    matrix, ids = weights(), np.array([3, 64, 99])
    form = partial(quantize, bits=bits, block_size=32, symmetric=symmetric)
    found, rest = beside_columns(matrix, ids, form), matrix.copy()
    rest[:, ids] = 0
    others = np.setdiff1d(np.arange(100), ids)
    np.testing.assert_allclose(found.dequantize()[:, ids], matrix[:, ids], rtol=2.0**-10)
    np.testing.assert_array_equal(found.dequantize()[:, others], form(rest).dequantize()[:, others])
    assert not form(rest).dequantize()[:, ids].any()


def test_numbers_at_the_ends_of_float32_stay_finite() -> None:
    matrix = weights() * np.float32(1e36)
    matrix[0, 3] = 1e-40
    found = beside_columns(matrix, np.array([3]), FOUR).dequantize()
    np.testing.assert_allclose(found[1:, 3], matrix[1:, 3], rtol=2.0**-10)


def test_rows_are_taken_with_their_kept_columns() -> None:
    found = beside_columns(weights(), np.array([5, 6]), FOUR)
    some = take_rows(found, np.array([2, -1, 0]))
    assert isinstance(some, QuantizedMatrix)
    np.testing.assert_array_equal(some.dequantize(), found.dequantize()[[2, 0, 0]] * np.array([[1], [0], [1]]))


@pytest.mark.parametrize("count", [1, 2, 10])
def test_with_inputs_known_kept_columns_lower_the_error_and_make_up_for_the_others(count: int) -> None:
    matrix, means = weights(), hessian()
    ids = largest_columns(np.diag(means), count)
    found = beside_columns_by_inputs(matrix, ids, means, GPTQ)
    as_they_are = beside_columns(matrix, ids, lambda rest: GPTQ(rest, means))
    plain = GPTQ(matrix, means)
    errors = [hessian_error(matrix, one.dequantize(), means) for one in (found, as_they_are, plain)]
    assert errors[0] < errors[1] < 1.1 * errors[2] and errors[0] < errors[2]


def test_the_closed_form_is_what_least_squares_find() -> None:
    """The slow twin: the best numbers for the kept columns, one row at a time, with the damping of the fast way."""
    matrix, means = weights(4), hessian()
    ids = largest_columns(np.diag(means), 2)
    found = beside_columns_by_inputs(matrix, ids, means, GPTQ)
    damped = means[np.ix_(ids, ids)] + 0.01 * np.diag(means).mean() * np.eye(2)
    assert found.kept is not None
    integers = found.dequantize()
    integers[:, ids] = 0
    for row in range(4):
        lost = matrix[row].astype(np.float64) - integers[row]
        lost[ids] = 0
        wanted = matrix[row, ids] + np.linalg.lstsq(damped, means[ids] @ lost, rcond=None)[0]
        np.testing.assert_allclose(found.kept[row], wanted, rtol=2e-3, atol=2e-3)
