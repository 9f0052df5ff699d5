"""GPTQ: against a slow twin, never worse than plain rounding, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.quant import QuantizedMatrix, quantize, unpack
from skipstone.quant.gptq import DAMPING, Curvature, gptq, hessian_error

Floats = NDArray[np.float32]


def problem(seed: int, rows: int = 12, columns: int = 80, samples: int = 300) -> tuple[Floats, NDArray[np.float64]]:
    """Return a matrix and the Hessian of inputs that hang together, some of them large."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((columns, columns)) * np.exp(random.standard_normal(columns))
    inputs = random.standard_normal((samples, columns)) @ mixing
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    return weight, inputs.T @ inputs / samples


def grids(matrix: QuantizedMatrix) -> tuple[Floats, NDArray[np.int64]]:
    """Return scale and zero point of each weight [N, K]."""
    columns = matrix.shape[1]
    if matrix.zero_points is None:
        points = np.full(matrix.scales.shape, 1 << (matrix.bits - 1))
    else:
        points = unpack(matrix.zero_points, matrix.bits, matrix.scales.shape[1]).astype(np.int64)
    return tuple(np.repeat(values, matrix.block_size, axis=1)[:, :columns] for values in (matrix.scales, points))


def slow_twin(weight: Floats, hessian: NDArray[np.float64], matrix: QuantizedMatrix) -> Floats:
    """Round column by column in doubles; after each, solve for the rest anew: by the inverse of what is left."""
    columns = weight.shape[1]
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(columns)
    scales, points = grids(matrix)
    left, result = weight.astype(np.float64), np.zeros(weight.shape)
    remaining = list(np.argsort(-np.diag(hessian), kind="stable"))
    while remaining:
        column = remaining[0]
        inverse = np.linalg.inv(damped[np.ix_(remaining, remaining)])
        levels = np.clip(np.rint(left[:, column] / scales[:, column]) + points[:, column], 0, 2**matrix.bits - 1)
        result[:, column] = (levels - points[:, column]) * scales[:, column]
        loss = (left[:, column] - result[:, column]) / inverse[0, 0]
        left[:, remaining[1:]] -= np.outer(loss, inverse[0, 1:])
        remaining = remaining[1:]
    return result.astype(np.float32)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, False)])
def test_it_rounds_as_its_slow_twin(bits: int, symmetric: bool) -> None:
    weight, hessian = problem(1)
    found = gptq(weight, hessian, bits=bits, block_size=32, symmetric=symmetric)
    wanted = slow_twin(weight, hessian, found)
    steps = np.abs(found.dequantize() - wanted) / np.abs(grids(found)[0])
    assert np.mean(steps > 0.5) < 0.01  # float32 may fall to the other side of a half


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, True), (4, False), (8, True)]), st.integers(33, 90))
def test_it_never_raises_the_error_above_that_of_plain_rounding(
    seed: int, form: tuple[int, bool], columns: int
) -> None:
    weight, hessian = problem(seed, rows=6, columns=columns)
    options = {"bits": form[0], "block_size": 32, "symmetric": form[1]}
    error = hessian_error(weight, gptq(weight, hessian, **options).dequantize(), hessian)
    assert error <= hessian_error(weight, quantize(weight, **options).dequantize(), hessian) * (1 + 1e-5)


@pytest.mark.parametrize("columns", [1, 63, 130])
def test_a_column_counts_what_is_left_when_all_others_make_up_for_its_loss(columns: int) -> None:
    _, hessian = problem(2, columns=columns)
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(columns)
    np.testing.assert_allclose(Curvature.of(hessian).importance, 1 / np.diag(np.linalg.inv(damped)), rtol=1e-4)


def test_matrices_of_the_same_inputs_can_share_what_is_made_of_them() -> None:
    weight, hessian = problem(8)
    alone, shared = (gptq(weight, inputs, bits=4, block_size=32) for inputs in (hessian, Curvature.of(hessian)))
    assert np.array_equal(alone.data, shared.data)


def test_inputs_that_hang_together_lose_less_than_half() -> None:
    weight, hessian = problem(3, rows=64, columns=128)
    found = gptq(weight, hessian, bits=4, block_size=32)
    plain = quantize(weight, bits=4, block_size=32, symmetric=False)
    assert hessian_error(weight, found.dequantize(), hessian) < 0.5 * hessian_error(weight, plain.dequantize(), hessian)


def test_inputs_that_were_always_0_and_few_samples_are_no_matter() -> None:
    weight, _ = problem(4)
    inputs = np.random.default_rng(5).standard_normal((3, 80))
    inputs[:, ::7] = 0
    found = gptq(weight, inputs.T @ inputs / 3, bits=4, block_size=16)
    assert np.isfinite(found.dequantize()).all()


def test_two_runs_give_the_same_bytes() -> None:
    weight, hessian = problem(6)
    first, second = (gptq(weight, hessian, bits=4, block_size=32) for _ in range(2))
    assert np.array_equal(first.data, second.data) and np.array_equal(first.scales, second.scales)


def test_a_hessian_that_is_none_is_refused() -> None:
    weight, hessian = problem(7)
    with pytest.raises(ValueError, match="Hessian of 80 inputs"):
        gptq(weight, hessian[:40, :40], bits=4, block_size=32)
    hessian[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        gptq(weight, hessian, bits=4, block_size=32)
