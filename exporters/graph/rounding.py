"""Numbers that are stored: rounded to integers as a rule says, or as they are; what no device can hold is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.quant import QuantizedMatrix, TensorRecipe, beside_columns, largest_columns, quantize

__all__ = ["Rounder", "require_finite", "rounded"]

Rounder: TypeAlias = Callable[[str, NDArray[np.float32], TensorRecipe], QuantizedMatrix]
"""The name of a matrix, its numbers and its rule to its integers: `rounded`, or what knows more of the matrix."""


def rounded(name: str, matrix: NDArray[np.float32], rule: TensorRecipe) -> QuantizedMatrix:
    """Return the matrix in integers. Raises: CheckpointError, by name, for weights too large for that."""

    def quantized(rest: NDArray[np.float32]) -> QuantizedMatrix:
        return quantize(
            rest, bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric, method=rule.plain_method
        )

    try:
        count = rule.num_outliers(matrix.shape[1])
        if not count:
            return quantized(matrix)
        sizes = np.square(matrix, dtype=np.float64).sum(axis=0)
        return beside_columns(matrix, largest_columns(sizes, count), quantized)
    except ValueError as error:
        largest = np.abs(matrix).max()
        raise CheckpointError(
            f"{name}: weights as large as {largest:.2g} cannot be rounded to {rule.bits} bits, only those up to 1e37: "
            "the checkpoint is damaged, or needs --precision fp32"
        ) from error


def require_finite(name: str, array: NDArray[np.generic]) -> None:
    """Raise CheckpointError for numbers that are infinite or NaN: factors of the model made them so.

    Cost: a quarter of the array, for a moment.
    """
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return
    if array.dtype == np.float16:
        raise CheckpointError(
            f"{name}: some weights are too large for float16, which this target takes: choose another --target"
        )
    raise CheckpointError(
        f"{name}: weights are so large that the model's own factors make them infinite or NaN: "
        "the checkpoint is damaged, fetch it again"
    )
