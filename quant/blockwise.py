"""Block-wise integers: every block of neighbouring weights in a row shares a scale, and may share a zero point.

A weight w is stored as an integer q in [0, 2**bits - 1] and read back as (q - zero point) * scale.
Shapes: N rows (outputs), K columns (inputs), n blocks of a chunk of rows, S weights in a block.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.half_scales import half_exponent, halved
from skipstone.quant.packing import check_bits, pack, unpack

__all__ = ["METHODS", "QuantizedMatrix", "check_block_size", "check_method", "quantize"]

Floats: TypeAlias = NDArray[np.float32]

METHODS: Final = ("search", "absmax")

# Steps to try, in steps of the plain grid. Squared error above the best of 50 and more: gaussian, Laplace and Student
# t(4) blocks of 16 to 128: 2 bit, first 4 / 7: 0.4 / 0.1 %; 4 bit, 1 / 3 / 5 / 8 / 12: 5.7 / 0.9 / 0.5 / 0.1 / 0 %;
# 8 bit, 1 / 4 / 8: 24 / 8 / 3 %
_STEP_FACTORS: Final[Mapping[int, tuple[float, ...]]] = {
    2: (1.0, 0.75, 0.57, 1.42, 0.88, 0.65, 0.45),
    4: (1.0, 0.91, 1.11, 1.24, 0.85, 0.96, 1.05, 1.41),
    8: (1.0, 1.015, 1.03, 1.0075),
}
# With importance, cutting off large but unimportant weights pays: 2.4 % above the best becomes 0.5 %.
_FACTORS_WITH_IMPORTANCE: Final = (0.74, 0.64)
_LARGEST: Final = 1e37  # above, sums in float32 could overflow
_SMALLEST: Final = 1e-30  # a block below counts as zeros: its scale could be denormal
_CHUNK: Final = 1 << 18  # weights handled at a time: few calls that hold the GIL, arrays that stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedMatrix:
    """A matrix [N, K] in the tensors that MatMulNBits reads; see `quantize`.

    With an `order`, the stored column j is column order[j] of the matrix: multiply it by x[..., order] in place of x.
    So columns that share a scale can be neighbours, wherever they stand. `offsets` are added to all weights of a block:
    what is left of a zero point that is no integer. The columns `kept_ids` are numbers, `kept`, and 0 among the
    integers. Raises ValueError unless the order is a permutation.
    """

    data: NDArray[np.uint8]  # [N, blocks, block_size * bits / 8]
    scales: Floats  # [N, blocks]
    zero_points: NDArray[np.uint8] | None  # [N, ceil(blocks * bits / 8)], None means 2**(bits - 1) everywhere
    bits: int
    block_size: int
    shape: tuple[int, int]
    order: NDArray[np.int64] | None = None  # [K], None means that the columns are stored as they stand
    offsets: Floats | None = None  # [N, blocks], None means 0 everywhere
    kept_ids: NDArray[np.int64] | None = None  # [S]
    kept: Floats | None = None  # [N, S], numbers that fit 16 bits as scales do

    def __post_init__(self) -> None:
        if self.order is not None:
            _check_order(self.order, self.shape[1])

    @property
    def num_bytes(self) -> int:
        """Size in a file."""
        optional = (array.nbytes for array in (self.zero_points, self.order, self.offsets) if array is not None)
        scale_bytes = 4 if half_exponent(self.scales) is None else 2
        kept_bytes = 0 if self.kept is None or self.kept_ids is None else 2 * self.kept.size + self.kept_ids.nbytes
        return self.data.nbytes + scale_bytes * self.scales.size + kept_bytes + sum(optional)

    def dequantize(self) -> Floats:
        """Return the matrix [N, K] that the device computes with."""
        rows, columns = self.shape
        values = unpack(self.data, self.bits, self.block_size).astype(np.float32)
        if self.zero_points is None:
            values -= 2 ** (self.bits - 1)
        else:
            values -= unpack(self.zero_points, self.bits, self.scales.shape[1])[:, :, None]
        values *= self.scales[:, :, None]
        if self.offsets is not None:
            values += self.offsets[:, :, None]
        stored = values.reshape(rows, -1)[:, :columns]
        if self.kept_ids is not None:
            stored[:, self.kept_ids] = self.kept
        if self.order is None:
            return stored
        matrix = np.empty_like(stored)
        matrix[:, self.order] = stored
        return matrix


def quantize(
    weight: Floats,
    *,
    bits: int,
    block_size: int,
    symmetric: bool = True,
    method: str = "search",
    importance: Floats | None = None,
    chunk: int = _CHUNK,
) -> QuantizedMatrix:
    """Return the matrix [N, K] in `bits` (2, 4 or 8) per weight, for MatMulNBits and GatherBlockQuantized.

    `absmax` takes the scale from the largest weight of a block, which gets the level -2**(bits - 1), as ONNX Runtime's
    own tool does; asymmetric, from the smallest and the largest. `search` tries other steps too, fits each scale by
    least squares and keeps the smallest squared error. `importance` [K] weights that error per column, for example with
    the mean square of the inputs. Scales are rounded to what 16 bits hold; see `halved`.

    K need not be a multiple of the block: the end is filled with the zero point. MatMulNBits takes its K as it is and
    does not read the filling; GatherBlockQuantized returns it, as zeros after column K.

    Threads take rows of about `chunk` weights; the result depends neither on it nor on their number. Raises ValueError
    for an option out of range, and for weights that are not numbers or above 1e37. Cost: about 20 ns of one core per
    weight.
    """
    check_bits(bits)
    check_block_size(block_size)
    check_method(method)
    height, width = _matrix_shape(weight)
    quantizer = _Quantizer(bits=bits, block_size=block_size, symmetric=symmetric, search=method == "search")
    roots = None if importance is None else _error_roots(importance, width)
    num_rows = max(1, chunk // width)
    chunks = (weight[start : start + num_rows] for start in range(0, height, num_rows))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(lambda rows: quantizer.quantize(rows, roots), chunks))
    data, scales, zero_points = (np.concatenate(part) for part in zip(*parts, strict=True))
    points = None if symmetric else zero_points
    return QuantizedMatrix(
        data=data, scales=halved(scales), zero_points=points, bits=bits, block_size=block_size, shape=(height, width)
    )


def _matrix_shape(weight: Floats) -> tuple[int, int]:
    """Return N and K. Raises: ValueError for what is no matrix."""
    if weight.ndim != 2 or not weight.size:
        raise ValueError(f"a matrix [N, K] is needed, got an array of shape {list(weight.shape)}")
    return weight.shape[0], weight.shape[1]


def _check_order(order: NDArray[np.int64], columns: int) -> None:
    if order.dtype != np.int64 or not np.array_equal(np.sort(order), np.arange(columns)):
        raise ValueError(
            f"the order of {columns} columns holds each of 0 to {columns - 1} once, as int64; "
            f"got {order.dtype} of shape {list(order.shape)}"
        )


def check_block_size(block_size: int) -> None:
    """Raise ValueError unless MatMulNBits has kernels for blocks of this size; rows are filled up to whole blocks."""
    if not 16 <= block_size <= 256 or block_size & (block_size - 1):
        raise ValueError(f"block size {block_size} is not supported; choose 16, 32, 64, 128 or 256")


def check_method(method: str) -> None:
    """Raise ValueError unless `quantize` knows the method."""
    if method not in METHODS:
        raise ValueError(f"quantization method {method!r} is not known; choose one of {', '.join(METHODS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantizer:
    bits: int
    block_size: int
    symmetric: bool
    search: bool

    @property
    def highest(self) -> int:
        """The largest stored integer."""
        return (1 << self.bits) - 1

    def quantize(self, rows: Floats, roots: Floats | None) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
        """Return data [R, blocks, bytes], scales [R, blocks] and packed zero points [R, bytes] of R rows."""
        x = _to_blocks(rows, self.block_size)
        divisors = _scale_to_one(x, signed=self.symmetric)
        step, middle = self._plain_grid(x)
        zero_point = self._zero_point(step, middle)
        fit = _Fit(x, self.highest, None if roots is None else np.tile(_to_blocks(roots, self.block_size), len(rows)))
        if self.search:
            step, zero_point = self._search(fit, step, middle)
        values = (fit.round(step, zero_point) + zero_point).astype(np.uint8)
        if self.search:
            step, _ = fit.refit(step)
        scales = np.where(divisors == np.inf, np.float32(1), step * divisors).reshape(len(rows), -1)
        points = zero_point.astype(np.uint8).reshape(scales.shape)
        return pack(values.T.reshape(*scales.shape, -1), self.bits), scales, pack(points, self.bits)

    def _plain_grid(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the step and the middle of the grid, both [n], that just covers each block.

        Symmetric, every block's largest weight is 1 and its step negative: so the largest gets the lowest level.
        """
        if self.symmetric:
            return np.full(x.shape[1], -(0.5 ** (self.bits - 1)), np.float32), np.zeros(x.shape[1], np.float32)
        low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
        step = (high - low) / np.float32(self.highest)
        return np.where(step > 0, step, np.float32(1)), (low + high) / np.float32(2)

    def _zero_point(self, step: Floats, middle: Floats) -> Floats:
        """Return the integer [n] that stands for 0: for a middle of 0, 2**(bits - 1), as rint takes halves to even."""
        zero_point: Floats = np.clip(np.rint(np.float32(self.highest / 2) - middle / step), 0, self.highest)
        return zero_point

    def _search(self, fit: _Fit, plain: Floats, middle: Floats) -> tuple[Floats, Floats]:
        """Return the step and the zero point, both [n], with the smallest squared error."""
        best_step, best_point = plain.copy(), np.zeros_like(plain)
        best_error = np.full_like(plain, np.inf)
        for factor in _STEP_FACTORS[self.bits] + (_FACTORS_WITH_IMPORTANCE if fit.weighted else ()):
            step = plain * np.float32(factor)
            zero_point = self._zero_point(step, middle)
            fit.round(step, zero_point)
            step, error = fit.refit(step)
            better = error < best_error
            for best, new in ((best_error, error), (best_step, step), (best_point, zero_point)):
                np.copyto(best, new, where=better)
        fit.round(best_step, best_point)
        return fit.refit(best_step)[0], best_point


class _Fit:
    """Rounds blocks [S, n] to levels and fits the steps [n] to them, in arrays made once for all candidates."""

    def __init__(self, x: Floats, highest: int, roots: Floats | None) -> None:
        self._x, self._highest, self._roots = x, highest, roots
        self._target = x if roots is None else x * roots
        self._levels, self._residual = np.empty_like(x), np.empty_like(x)

    @property
    def weighted(self) -> bool:
        return self._roots is not None

    def round(self, step: Floats, zero_point: Floats) -> Floats:
        """Return the nearest levels [S, n], 0 for the weight 0; the next call overwrites them."""
        levels = np.multiply(self._x, 1 / step, out=self._levels)
        np.rint(levels, out=levels)
        np.maximum(levels, -zero_point, out=levels)
        return np.minimum(levels, self._highest - zero_point, out=levels)

    def refit(self, step: Floats) -> tuple[Floats, Floats]:
        """Return the best steps for the levels of the last `round` and their squared errors, both [n]."""
        levels = self._levels if self._roots is None else self._levels * self._roots
        power = np.einsum("sn,sn->n", levels, levels)
        # A block without levels other than 0, or without importance, keeps its step.
        fitted = np.divide(np.einsum("sn,sn->n", levels, self._target), power, out=step.copy(), where=power > 1e-20)
        residual = np.multiply(levels, fitted, out=self._residual)
        residual -= self._target
        return fitted, np.einsum("sn,sn->n", residual, residual)


def _to_blocks(rows: Floats, block_size: int) -> Floats:
    """[R, K] to [S, R * blocks], a block per column, as sums over rows of a tall array are fast; filled with zeros."""
    num_rows, columns = rows.shape
    num_blocks = -(-columns // block_size)
    padded = np.zeros((num_rows, num_blocks * block_size), np.float32)
    padded[:, :columns] = rows
    return np.ascontiguousarray(padded.reshape(-1, block_size).T)


def _scale_to_one(x: Floats, *, signed: bool) -> Floats:
    """Divide each block by its largest weight (`signed`: that becomes 1) or its magnitude; return the divisors [n]."""
    highest, lowest = x.max(axis=0), x.min(axis=0)
    largest = np.where(-lowest > highest, lowest, highest)
    magnitude = np.abs(largest)
    if not (magnitude <= _LARGEST).all():
        raise ValueError("the matrix holds NaN, infinity or a weight above 1e37; check the checkpoint")
    divisors = np.where(magnitude < _SMALLEST, np.float32(np.inf), largest if signed else magnitude)
    x /= divisors
    return divisors


def _error_roots(importance: Floats, columns: int) -> Floats:
    """Return the square roots of the importance as a row [1, K], the largest 1."""
    if importance.shape != (columns,):
        raise ValueError(f"importance [{columns}] is needed, one value per column, got shape {list(importance.shape)}")
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise ValueError("importance holds a negative value, NaN or infinity; check the calibration")
    roots: Floats = np.sqrt(importance / max(importance.max(), _SMALLEST), dtype=np.float32)
    return roots[None]
