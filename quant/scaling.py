"""Scales of channels under which a matrix rounds well: columns times a scale, inputs divided by it.

Shapes: N rows (outputs), K columns (inputs), S scales, T samples. `columns` [K] is the number of each column's scale;
without it every column has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["awq_scales", "hessian_root", "smooth_scales"]

Floats: TypeAlias = NDArray[np.float32]
Columns: TypeAlias = NDArray[np.int64]
_SMALLEST: Final = 1e-5  # of inputs and weights, so that a dead channel gets a scale too
_ALPHAS: Final = tuple(number / 20 for number in range(20))


def smooth_scales(
    largest_inputs: Floats, matrices: Sequence[Floats], *, alpha: float = 0.5, columns: Columns | None = None
) -> Floats:
    """Return scales [S] that share the range of inputs with that of the weights: max|X|^alpha / max|W|^(1 - alpha).

    `largest_inputs` [K] are the largest magnitudes of each input; `matrices` [N, K] read these inputs.
    Source: SmoothQuant (Xiao et al., 2023), equation 4.
    """
    inputs = _per_scale(np.maximum, largest_inputs, columns)
    weights = _per_scale(np.maximum, np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0), columns)
    scales = np.maximum(inputs, _SMALLEST) ** alpha / np.maximum(weights, _SMALLEST) ** (1 - alpha)
    return np.asarray(scales, np.float32)


def awq_scales(
    mean_inputs: Floats,
    matrices: Sequence[Floats],
    samples: Floats,
    rounded: Callable[[Floats], Floats],
    *,
    columns: Columns | None = None,
    alphas: Sequence[float] = _ALPHAS,
) -> Floats:
    """Return the scales [S] mean|X|^alpha, of some `alphas` from 0, with the smallest squared error of the products.

    `rounded` gives a matrix as it is read back. `samples` [T, K] are inputs, or `hessian_root` of what is known of
    them. Alpha 0 are scales of 1, so that the error never grows. Source: AWQ (Lin et al., 2024), section 3.2.
    Cost: a rounding of each matrix for each alpha, and as many products with the samples.
    """
    means = np.maximum(_per_scale(np.maximum, mean_inputs, columns), _SMALLEST)
    best, least = np.ones(len(means), np.float32), np.inf
    for alpha in alphas:
        scales = means**alpha
        scales = np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)
        factors = scales if columns is None else scales[columns]
        error = sum(_error(matrix, factors, samples, rounded) for matrix in matrices)
        if error < least:
            best, least = scales, error
    return best


def hessian_root(hessian: Floats) -> Floats:
    """Return a matrix [K, K] whose errors are those of all samples X, of which only X' X [K, K] is known."""
    values, vectors = np.linalg.eigh(hessian.astype(np.float64))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))).T, np.float32)


def _error(matrix: Floats, scales: Floats, samples: Floats, rounded: Callable[[Floats], Floats]) -> float:
    """Return the squared error of the products with a matrix that is rounded with its columns scaled."""
    residual = rounded(matrix * scales) / scales - matrix
    products = samples @ residual.T
    return float(np.vdot(products, products))


def _per_scale(reduce: np.ufunc, values: NDArray[np.floating], columns: Columns | None) -> NDArray[np.floating]:
    """Reduce values of columns [K] to values of scales [S]."""
    if columns is None:
        return values
    reduced = np.zeros(columns.max() + 1, values.dtype)
    reduce.at(reduced, columns, values)
    return reduced
