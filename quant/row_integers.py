"""Signed 8-bit integers with one scale for each output: what a product of integers with integers multiplies.

Shapes: N rows (outputs), K columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.rows import Matrix

__all__ = ["WholeRows", "whole_rows"]

Floats: TypeAlias = NDArray[np.float32]
_HIGHEST: Final = 127
_SMALLEST: Final = 1e-30  # a row below counts as zeros


@dataclass(frozen=True, slots=True, eq=False)
class WholeRows:
    """A matrix [N, K]: the weight in row n and column k is values[n, k] * scales[n]."""

    values: NDArray[np.int8]  # [N, K], -127 to 127
    scales: Floats  # [N]

    def dequantize(self) -> Floats:
        """Return the matrix that the device computes with."""
        matrix: Floats = self.values * self.scales[:, None]
        return matrix


def whole_rows(matrix: Matrix) -> WholeRows:
    """Return a matrix [N, K] with the scale of each row from its largest weight; integers are read as numbers first."""
    numbers = matrix if isinstance(matrix, np.ndarray) else matrix.dequantize()
    largest = np.abs(numbers).max(axis=1, initial=0)
    scales = np.where(largest < _SMALLEST, np.float32(1), largest / np.float32(_HIGHEST))
    return WholeRows(np.rint(numbers / scales[:, None]).astype(np.int8), scales.astype(np.float32))
