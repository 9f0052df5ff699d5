"""Rows of matrices, as numbers or as block-wise integers: taken, stacked, scaled, split finer; nothing is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.blockwise import QuantizedMatrix
from skipstone.quant.packing import pack, unpack

__all__ = ["Matrix", "can_stack", "refine", "scale", "stack", "take_rows"]

Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = Floats | QuantizedMatrix


def take_rows(matrix: Matrix, rows: NDArray[np.int64]) -> Matrix:
    """Return the matrix [len(rows), ...] of these rows; the row -1 is zeros."""
    if np.array_equal(rows, np.arange(len(matrix) if isinstance(matrix, np.ndarray) else matrix.shape[0])):
        return matrix
    missing = rows < 0
    if isinstance(matrix, np.ndarray):
        taken = matrix[rows]
        taken[missing] = 0
        return taken
    scales = matrix.scales[rows]
    scales[missing] = 0
    points = matrix.zero_points
    offsets, kept = (None if part is None else part[rows] for part in (matrix.offsets, matrix.kept))
    for part in (offsets, kept):
        if part is not None:
            part[missing] = 0
    return replace(
        matrix,
        data=matrix.data[rows],
        scales=scales,
        zero_points=None if points is None else points[rows],
        offsets=offsets,
        kept=kept,
        shape=(len(rows), matrix.shape[1]),
    )


def can_stack(first: Matrix, second: Matrix) -> bool:
    """Whether the rows of both fit one matrix: both numbers, or integers of one width, block and order of columns."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    if (first.bits, first.block_size, first.shape[1]) != (second.bits, second.block_size, second.shape[1]):
        return False
    if first.kept is not None or second.kept is not None:
        return False
    if first.order is None or second.order is None:
        return first.order is second.order
    return np.array_equal(first.order, second.order)


def stack(parts: Sequence[Matrix]) -> list[Matrix]:
    """Return the matrices with each one put under the one before it wherever the two `can_stack`."""
    stacked = [parts[0]]
    for part in parts[1:]:
        if can_stack(stacked[-1], part):
            stacked[-1] = _under(stacked[-1], part)
        else:
            stacked.append(part)
    return stacked


def _under(first: Matrix, second: Matrix) -> Matrix:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        assert isinstance(first, np.ndarray) and isinstance(second, np.ndarray), "can_stack holds"
        return np.concatenate([first, second])
    points = None
    if first.zero_points is not None or second.zero_points is not None:
        points = np.concatenate([_zero_points(first), _zero_points(second)])
    offsets = None
    if first.offsets is not None or second.offsets is not None:
        offsets = np.concatenate([_offsets(first), _offsets(second)])
    return replace(
        first,
        data=np.concatenate([first.data, second.data]),
        scales=np.concatenate([first.scales, second.scales]),
        zero_points=points,
        offsets=offsets,
        shape=(first.shape[0] + second.shape[0], first.shape[1]),
    )


def _zero_points(matrix: QuantizedMatrix) -> NDArray[np.uint8]:
    if matrix.zero_points is not None:
        return matrix.zero_points
    return pack(np.full(matrix.scales.shape, 2 ** (matrix.bits - 1), np.uint8), matrix.bits)


def _offsets(matrix: QuantizedMatrix) -> Floats:
    return np.zeros_like(matrix.scales) if matrix.offsets is None else matrix.offsets


def scale(matrix: Matrix, factor: float) -> Matrix:
    """Return `factor` times the matrix; integers stay, their scales change."""
    if factor == 1:
        return matrix
    with np.errstate(over="ignore"):  # what becomes infinite is refused, by name, where it is stored
        if isinstance(matrix, np.ndarray):
            return matrix * np.float32(factor)
        offsets = None if matrix.offsets is None else matrix.offsets * np.float32(factor)
        kept = None if matrix.kept is None else matrix.kept * np.float32(factor)
        return replace(matrix, scales=matrix.scales * np.float32(factor), offsets=offsets, kept=kept)


def refine(matrix: QuantizedMatrix, *, bits: int, block_size: int) -> QuantizedMatrix:
    """Return the same values in integers of at least as many bits and in blocks that are at most as large."""
    if (matrix.bits, matrix.block_size) == (bits, block_size):
        return matrix
    blocks = -(-matrix.shape[1] // block_size)
    # Every block of theirs becomes some of ours; those behind the last column are left out.
    ours = np.arange(blocks) * block_size // matrix.block_size
    lift = np.uint8(2 ** (bits - 1) - 2 ** (matrix.bits - 1))
    values = unpack(matrix.data, matrix.bits, matrix.block_size).reshape(matrix.shape[0], -1, block_size)
    points = matrix.zero_points
    if points is not None:
        points = pack(unpack(points, matrix.bits, matrix.scales.shape[1])[:, ours] + lift, bits)
    return replace(
        matrix,
        data=pack(values[:, :blocks] + lift, bits),
        scales=matrix.scales[:, ours],
        zero_points=points,
        offsets=None if matrix.offsets is None else matrix.offsets[:, ours],
        bits=bits,
        block_size=block_size,
    )
