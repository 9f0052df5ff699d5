"""Scales are those of the papers' formulas, never make the error larger, and take an outlier out of its block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.quant import awq_scales, hessian_root, quantize, smooth_scales

Floats = np.ndarray


def rounded(matrix: Floats) -> Floats:
    return quantize(matrix, bits=4, block_size=32).dequantize()


def error(matrix: Floats, samples: Floats, scales: Floats) -> float:
    return float(np.square(samples @ (rounded(matrix * scales) / scales - matrix).T).sum())


def random_case(seed: int, *, outlier: float = 1.0) -> tuple[Floats, Floats]:
    """A matrix [24, 64] and samples [50, 64] whose channel 5 is larger by a factor."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((50, 64)).astype(np.float32)
    samples[:, 5] *= outlier
    return rng.standard_normal((24, 64)).astype(np.float32), samples


def test_smooth_scales_are_the_formula_of_the_paper() -> None:
    inputs, matrix = np.array([4.0, 1, 0], np.float32), np.array([[-1.0, 0.5, 0.1], [0.25, 0.25, 0]], np.float32)
    scales = smooth_scales(inputs, [matrix, matrix / 2], alpha=0.5)
    np.testing.assert_allclose(scales, [2, 2**0.5, (1e-5 / 0.1) ** 0.5], rtol=1e-6)
    np.testing.assert_allclose(smooth_scales(inputs, [matrix], alpha=0.0), [1, 2, 10], rtol=1e-6)


def test_columns_that_share_a_scale_take_the_largest_of_them() -> None:
    inputs, matrix = np.array([1.0, 2, 16, 8], np.float32), np.array([[1.0, 4, 1, 1]], np.float32)
    scales = smooth_scales(inputs, [matrix], columns=np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(scales, [4, 2**0.5], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 200), outlier=st.floats(0, 1e3))
def test_awq_is_never_worse_than_no_scales_on_its_samples(seed: int, outlier: float) -> None:
    matrix, samples = random_case(seed, outlier=outlier)
    scales = awq_scales(np.abs(samples).mean(axis=0), [matrix], samples, rounded)
    assert error(matrix, samples, scales) <= error(matrix, samples, np.ones(64, np.float32))


def test_an_outlier_channel_is_rounded_finer() -> None:
    matrix, samples = random_case(0, outlier=50.0)
    scales = awq_scales(np.abs(samples).mean(axis=0), [matrix], samples, rounded)
    assert scales[5] == scales.max() > 3 * np.median(scales)
    assert error(matrix, samples, scales) < 0.5 * error(matrix, samples, np.ones(64, np.float32))


def test_heads_that_share_values_share_scales() -> None:
    matrix, samples = random_case(1, outlier=50.0)
    columns = np.tile(np.arange(16), 4)
    scales = awq_scales(np.abs(samples).mean(axis=0), [matrix], samples, rounded, columns=columns)
    assert scales.shape == (16,) and scales.argmax() == 5
    assert error(matrix, samples, scales[columns]) < error(matrix, samples, np.ones(64, np.float32))


@pytest.mark.parametrize("num_samples", [10, 200])
def test_a_hessian_stands_for_the_samples_it_is_of(num_samples: int) -> None:
    samples = np.random.default_rng(0).standard_normal((num_samples, 64)).astype(np.float32)
    root, residual = hessian_root(samples.T @ samples), random_case(3)[0]
    assert root.shape == (64, 64)
    np.testing.assert_allclose(np.linalg.norm(root @ residual.T), np.linalg.norm(samples @ residual.T), rtol=1e-4)
