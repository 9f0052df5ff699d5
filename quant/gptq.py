"""GPTQ: weights are rounded column by column, and what each loses is made up for by the columns that follow.

Source: Frantar et al., 2023. The grids (scales and zero points) are found before, from the weights as they were: so
columns can be taken in the order of their inputs' size while blocks stay where MatMulNBits wants them.
Shapes: N rows (outputs), K columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.blockwise import QuantizedMatrix, quantize
from skipstone.quant.packing import pack, unpack

__all__ = ["DAMPING", "Curvature", "gptq", "hessian_error"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]

DAMPING: Final = 0.01
"""What is added to the diagonal of the Hessian, as a share of its mean."""
_MORE_DAMPING: Final = 10.0
_TRIES: Final = 6
_CHUNK: Final = 64  # columns that are handed the losses of all before them in one product
_SMALL: Final = 64  # columns of a triangle that is inverted at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curvature:
    """What rounding needs to know of the inputs x of matrices, made once for all that read the same.

    With the columns in `order` the damped Hessian is R R' with an upper triangle R. A loss d of weights [K] then counts
    |d R|^2, and the column i, rounded after those before it, makes up for theirs: by sum_(j < i) d_j R_ji / R_ii.
    """

    hessian: Doubles  # [K, K], mean(x x'), as it was given
    order: NDArray[np.int64]  # [K], the largest inputs first
    shares: Floats  # [K, K], below the diagonal R_ji / R_ii in row i, column j
    importance: Floats  # [K], what a loss of a column counts when all others make up for it

    @classmethod
    def of(cls, hessian: Doubles, *, damping: float = DAMPING) -> Self:
        """Return it for mean(x x^T) [K, K], symmetric, without negative eigenvalues.

        It is damped, more where it has no inverse; inputs that were always 0 count for nothing. Raises ValueError for
        NaN. Cost: 2/3 K^3 multiplications in doubles, and three arrays [K, K] of them.
        """
        if not np.isfinite(hessian).all():
            raise ValueError("the Hessian holds NaN or infinity; check the calibration")
        order = np.argsort(-np.diag(hessian), kind="stable")
        lower = _cholesky(hessian, order[::-1], damping)  # of the reversed order, so reversed an upper triangle
        importance = np.empty(len(order), np.float32)
        importance[order[::-1]] = 1 / np.square(_inverted(lower)).sum(axis=0)
        shares = np.ascontiguousarray(lower[::-1, ::-1].T, dtype=np.float32)
        shares /= np.diag(shares)[:, None].copy()
        return cls(hessian=hessian, order=order, shares=shares, importance=importance)


def gptq(
    weight: Floats, inputs: Doubles | Curvature, *, bits: int, block_size: int, symmetric: bool = False
) -> QuantizedMatrix:
    """Return the matrix [N, K] in `bits` (2, 4 or 8) per weight, rounded for inputs x with a Hessian mean(x x^T).

    Never worse than `quantize`, with or without importance, in the error that `hessian_error` tells: the best of the
    three is returned. Raises ValueError as `quantize` does, and for a Hessian of another shape or with NaN. Cost: N K^2
    multiplications, and those of `Curvature`, which can be given in place of the Hessian.
    """
    hessian = inputs.hessian if isinstance(inputs, Curvature) else inputs
    columns = weight.shape[-1]
    if hessian.shape != (columns, columns):
        raise ValueError(f"the Hessian of {columns} inputs is a matrix of that size, got {list(hessian.shape)}")
    curvature = inputs if isinstance(inputs, Curvature) else Curvature.of(inputs)
    plain = quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric, importance=curvature.importance)
    levels = _round_in_order(weight, curvature, _grids(plain), highest=(1 << bits) - 1, block_size=block_size)
    unweighted = quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric)
    tried = (_with_levels(plain, levels), plain, unweighted)
    return min(tried, key=lambda matrix: hessian_error(weight, matrix.dequantize(), hessian))


def hessian_error(weight: Floats, rounded: Floats, hessian: Doubles) -> float:
    """Return mean |W x - Q x|^2 over inputs x with mean(x x^T) = `hessian`: tr((W - Q) H (W - Q)^T)."""
    difference = weight - rounded
    return float(
        np.einsum("nk,nk->", difference @ hessian.astype(np.float32, copy=False), difference, dtype=np.float64)
    )


def _cholesky(hessian: Doubles, order: NDArray[np.int64], damping: float) -> Doubles:
    """Return the lower triangle of the damped Hessian in an order of its columns.

    An input that was always 0 has a diagonal of 1.
    """
    matrix, diagonal = hessian[np.ix_(order, order)].astype(np.float64), np.diag_indices(len(hessian))
    dead = matrix[diagonal] <= 0
    matrix[dead, dead] = 1.0
    mean, added = matrix[diagonal].mean(), 0.0
    for _ in range(_TRIES):
        matrix[diagonal] += damping * mean - added
        added = damping * mean
        try:
            return np.linalg.cholesky(matrix).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            damping *= _MORE_DAMPING
    raise ValueError("the Hessian has no inverse, however much it is damped; check the calibration")


def _inverted(lower: Doubles) -> Doubles:
    """Return the inverse of a lower triangle, made of those of its halves."""
    size = len(lower)
    if size <= _SMALL:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    result = np.zeros_like(lower)
    first, last = _inverted(lower[:half, :half]), _inverted(lower[half:, half:])
    result[:half, :half], result[half:, half:] = first, last
    result[half:, :half] = -last @ (lower[half:, :half] @ first)
    return result


def _grids(matrix: QuantizedMatrix) -> tuple[Floats, Floats]:
    """Return the scale and the zero point of each block, both transposed [blocks, N]."""
    points = np.full(matrix.scales.shape, 1 << (matrix.bits - 1), np.uint8)
    if matrix.zero_points is not None:
        points = unpack(matrix.zero_points, matrix.bits, matrix.scales.shape[1])
    return np.ascontiguousarray(matrix.scales.T), np.ascontiguousarray(points.T, dtype=np.float32)


def _round_in_order(
    weight: Floats, curvature: Curvature, grids: tuple[Floats, Floats], *, highest: int, block_size: int
) -> NDArray[np.uint8]:
    """Return the levels [K, N], columns rounded in order; each makes up for what those before it lost."""
    order, shares, columns = curvature.order, curvature.shares, np.ascontiguousarray(weight.T)
    scales, points = grids
    losses, levels = np.empty_like(columns), np.empty(columns.shape, np.uint8)
    for start in range(0, len(order), _CHUNK):
        end = min(start + _CHUNK, len(order))
        wanted = columns[order[start:end]]
        if start:
            wanted += shares[start:end, :start] @ losses[:start]
        for row, x in enumerate(wanted, start):
            if row > start:
                x += shares[row, start:row] @ losses[start:row]
            column = order[row]
            scale, point = scales[column // block_size], points[column // block_size]
            x /= scale
            np.rint(x, out=x)
            x += point
            levels[column] = np.clip(x, 0, highest, out=x)
            x -= point
            x *= scale
            np.subtract(columns[column], x, out=losses[row])
    return levels


def _with_levels(matrix: QuantizedMatrix, levels: NDArray[np.uint8]) -> QuantizedMatrix:
    """Return the matrix with other levels [K, N] on its grids; the filling of the last block stays."""
    values = unpack(matrix.data, matrix.bits, matrix.block_size)
    flat = values.reshape(matrix.shape[0], -1)
    flat[:, : matrix.shape[1]] = levels.T
    return replace(matrix, data=pack(flat.reshape(values.shape), matrix.bits))
