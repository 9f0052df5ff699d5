"""Columns that stay numbers beside the integers of a matrix: those whose inputs are far larger than others'.

Source: LLM.int8 (Dettmers et al., 2022), with columns that are chosen once. Shapes: N rows (outputs), K columns
(inputs), S kept columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.blockwise import QuantizedMatrix
from skipstone.quant.gptq import DAMPING
from skipstone.quant.half_scales import nearest_halves

__all__ = ["beside_columns", "beside_columns_by_inputs", "largest_columns"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
ColumnIds: TypeAlias = NDArray[np.int64]


def largest_columns(sizes: NDArray[np.floating], count: int) -> ColumnIds:
    """Return the numbers of the `count` largest columns, ascending; of equal ones the first."""
    return np.sort(np.argsort(-sizes, kind="stable")[:count]).astype(np.int64)


def beside_columns(weight: Floats, ids: ColumnIds, quantized: Callable[[Floats], QuantizedMatrix]) -> QuantizedMatrix:
    """Return a matrix [N, K] whose columns `ids` [S] stay numbers of 16 bits, and which is `quantized` without them."""
    return replace(quantized(_without(weight, ids)), kept_ids=ids, kept=nearest_halves(weight[:, ids]))


def beside_columns_by_inputs(
    weight: Floats, ids: ColumnIds, hessian: Doubles, quantized: Callable[[Floats, Doubles], QuantizedMatrix]
) -> QuantizedMatrix:
    """Return the same for inputs x with `hessian` = mean(x x^T): the kept columns make up for the losses of the others.

    `quantized` gets the matrix without them, and the Hessian of what they cannot make up for.
    """
    damped = hessian[np.ix_(ids, ids)] + DAMPING * np.diag(hessian).mean() * np.eye(len(ids))
    follow = np.linalg.solve(damped, hessian[ids])  # [S, K]: what of the other inputs the kept ones tell
    left = hessian - hessian[:, ids] @ follow
    left[ids], left[:, ids] = 0, 0
    rest = _without(weight, ids)
    matrix = quantized(rest, (left + left.T) / 2)
    lost = rest - matrix.dequantize()
    kept = weight[:, ids] + lost @ follow.T.astype(np.float32)
    return replace(matrix, kept_ids=ids, kept=nearest_halves(kept))


def _without(weight: Floats, ids: ColumnIds) -> Floats:
    rest = weight.copy()
    rest[:, ids] = 0
    return rest
