"""GPTQ: weights are rounded column by column, and what each loses is made up for by the columns that follow.

Source: Frantar et al., 2023. The grids (scales and zero points) are found before, from the weights as they were: so
columns can be taken in the order of their inputs' size while blocks stay where MatMulNBits wants them.
Shapes: N rows (outputs), K columns (inputs).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.blockwise import QuantizedMatrix, quantize
from skipstone.quant.packing import pack, unpack

__all__ = ["DAMPING", "gptq", "hessian_error"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]

DAMPING: Final = 0.01
"""What is added to the diagonal of the Hessian, as a share of its mean."""
_MORE_DAMPING: Final = 10.0
_TRIES: Final = 6
_CHUNK: Final = 128  # columns whose losses are handed to the rest in one product


def gptq(
    weight: Floats, hessian: Doubles, *, bits: int, block_size: int, symmetric: bool = False, damping: float = DAMPING
) -> QuantizedMatrix:
    """Return the matrix [N, K] in `bits` (2, 4 or 8) per weight, rounded for inputs x with `hessian` = mean(x x^T).

    `hessian` [K, K] is symmetric and has no negative eigenvalues; inputs that were always 0 count for nothing. It is
    damped, more where it has no inverse. Never worse than `quantize`, with or without importance, in the error that
    `hessian_error` tells: the best of the three is returned. Raises ValueError as `quantize` does, and for a Hessian of
    another shape or with NaN. Cost: K^3 + N K^2 multiplications, and three arrays [K, K] of doubles.
    """
    _check_hessian(hessian, weight)
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse, factor = _inverse(hessian, order, damping)
    importance = (1 / np.diag(inverse)).astype(np.float32)
    plain = quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric, importance=importance)
    scales, points = _grids(plain)
    levels = _round_in_order(weight, factor, scales, points, order, highest=(1 << bits) - 1)
    unweighted = quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric)
    tried = (_with_levels(plain, levels), plain, unweighted)
    return min(tried, key=lambda matrix: hessian_error(weight, matrix.dequantize(), hessian))


def hessian_error(weight: Floats, rounded: Floats, hessian: Doubles) -> float:
    """Return mean |W x - Q x|^2 over inputs x with mean(x x^T) = `hessian`: tr((W - Q) H (W - Q)^T)."""
    difference = weight - rounded
    return float(np.einsum("nk,nk->", difference @ hessian.astype(np.float32), difference, dtype=np.float64))


def _check_hessian(hessian: Doubles, weight: Floats) -> None:
    columns = weight.shape[-1]
    if hessian.shape != (columns, columns):
        raise ValueError(f"the Hessian of {columns} inputs is a matrix of that size, got {list(hessian.shape)}")
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian holds NaN or infinity; check the calibration")


def _inverse(hessian: Doubles, order: NDArray[np.int64], damping: float) -> tuple[Doubles, Floats]:
    """Return the inverse of the damped Hessian, and its upper Cholesky factor in another order of columns.

    An input that was always 0 has a diagonal of 1.
    """
    matrix, diagonal = hessian.astype(np.float64), np.diag_indices(len(hessian))
    dead = matrix[diagonal] <= 0
    matrix[dead, dead] = 1.0
    mean = matrix[diagonal].mean()
    for _ in range(_TRIES):
        damped = matrix.copy()
        damped[diagonal] += damping * mean
        try:
            inverse: Doubles = np.linalg.inv(damped).astype(np.float64)
            return inverse, np.linalg.cholesky(inverse[np.ix_(order, order)]).T.astype(np.float32)
        except np.linalg.LinAlgError:
            damping *= _MORE_DAMPING
    raise ValueError("the Hessian has no inverse, however much it is damped; check the calibration")


def _grids(matrix: QuantizedMatrix) -> tuple[Floats, Floats]:
    """Return the scale and the zero point of each weight, both transposed [K, N]."""
    num_blocks, columns = matrix.scales.shape[1], matrix.shape[1]
    points = np.full(matrix.scales.shape, 1 << (matrix.bits - 1), np.uint8)
    if matrix.zero_points is not None:
        points = unpack(matrix.zero_points, matrix.bits, num_blocks)
    grids = (np.repeat(values, matrix.block_size, axis=1)[:, :columns].T for values in (matrix.scales, points))
    scale, point = (np.ascontiguousarray(values, dtype=np.float32) for values in grids)
    return scale, point


def _round_in_order(
    weight: Floats, factor: Floats, scales: Floats, points: Floats, order: NDArray[np.int64], *, highest: int
) -> NDArray[np.uint8]:
    """Return the levels [K, N], columns rounded in this order; all that follow make up for what a column lost."""
    left, levels = np.ascontiguousarray(weight.T[order]), np.empty((len(order), len(weight)), np.uint8)
    for start in range(0, len(order), _CHUNK):
        end = min(start + _CHUNK, len(order))
        losses = np.empty((end - start, len(weight)), np.float32)
        for row in range(start, end):
            scale, point = scales[order[row]], points[order[row]]
            level = np.clip(np.rint(left[row] / scale) + point, 0, highest)
            levels[order[row]] = level
            losses[row - start] = (left[row] - (level - point) * scale) / factor[row, row]
            left[row + 1 : end] -= factor[row, row + 1 : end, None] * losses[row - start]
        left[end:] -= factor[start:end, end:].T @ losses
    return levels


def _with_levels(matrix: QuantizedMatrix, levels: NDArray[np.uint8]) -> QuantizedMatrix:
    """Return the matrix with other levels [K, N] on its grids; the filling of the last block stays."""
    values = unpack(matrix.data, matrix.bits, matrix.block_size)
    flat = values.reshape(matrix.shape[0], -1)
    flat[:, : matrix.shape[1]] = levels.T
    return replace(matrix, data=pack(flat.reshape(values.shape), matrix.bits))
