"""Offsets of blocks as more columns: a product with them is a product of integers, and nothing else.

Shapes: N rows and K columns of a matrix in n blocks of S.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from skipstone.quant.blockwise import QuantizedMatrix, quantize
from skipstone.quant.half_scales import halved
from skipstone.quant.packing import pack, unpack

__all__ = ["as_columns"]

_SMALLEST: Final = 2.0**-14  # offsets below, in steps of the row, count as zeros


def as_columns(matrix: QuantizedMatrix) -> QuantizedMatrix:
    """Return the matrix [N, n * S + n] that computes, of inputs and the sums of their blocks, what this one does.

    So W x = V y, where y are the inputs, filled up with zeros to whole blocks, and after them the n sums. The offsets
    are rounded to integers of the matrix's own width, in blocks of its own size. The matrix has offsets, no order.
    """
    assert matrix.offsets is not None and matrix.order is None, "the blocks of an ordered matrix have no offsets"
    bits, (num_rows, num_blocks) = matrix.bits, matrix.offsets.shape
    largest = np.abs(matrix.scales).max(axis=1, keepdims=True)
    offsets = np.where(np.abs(matrix.offsets) < _SMALLEST * largest, np.float32(0), matrix.offsets)
    symmetric = matrix.zero_points is None
    added = quantize(offsets, bits=bits, block_size=matrix.block_size, symmetric=symmetric)
    # Blocks of zeros get a scale of the row's own size, so that all fit float16.
    is_used = np.add.reduceat(np.abs(offsets), np.arange(0, num_blocks, matrix.block_size), axis=1) > 0
    scales = np.concatenate([matrix.scales, np.where(is_used, added.scales, largest)], axis=1)
    points = None
    if matrix.zero_points is not None and added.zero_points is not None:
        parts = ((matrix.zero_points, num_blocks), (added.zero_points, added.scales.shape[1]))
        points = pack(np.concatenate([unpack(part, bits, count) for part, count in parts], axis=1), bits)
    return replace(
        matrix,
        data=np.concatenate([matrix.data, added.data], axis=1),
        scales=halved(scales),
        zero_points=points,
        offsets=None,
        shape=(num_rows, num_blocks * (matrix.block_size + 1)),
    )
