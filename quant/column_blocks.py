"""Some whole blocks of the columns of a matrix of integers; nothing is rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipstone.quant.packing import pack, unpack
from skipstone.quant.rows import Matrix

__all__ = ["take_columns"]


def take_columns(matrix: Matrix, start: int, end: int) -> Matrix:
    """Return the columns from `start` to `end`; of integers both are borders of blocks, or the end of the matrix."""
    if isinstance(matrix, np.ndarray):
        return np.ascontiguousarray(matrix[:, start:end])
    assert matrix.order is None and matrix.kept is None and matrix.offsets is None, "columns stand for themselves"
    size, num_blocks = matrix.block_size, matrix.scales.shape[1]
    assert start % size == 0 and (end % size == 0 or end == matrix.shape[1]), "blocks stay whole"
    blocks = slice(start // size, -(-end // size))
    points = matrix.zero_points
    if points is not None:
        points = pack(np.ascontiguousarray(unpack(points, matrix.bits, num_blocks)[:, blocks]), matrix.bits)
    return replace(
        matrix,
        data=np.ascontiguousarray(matrix.data[:, blocks]),
        scales=np.ascontiguousarray(matrix.scales[:, blocks]),
        zero_points=points,
        shape=(matrix.shape[0], end - start),
    )
