"""Small integers of other programs, each block with a step and the number of its code 0, as blocks with zero points.

A weight of theirs is step * code + lowest; ours is (q - zero point) * scale + offset, and the zero point is an integer.
So a block gets a finer grid where the codes leave room: q = factor * code + lift, scale = step / factor. Then the zero
point lies nearer to where it should be. What is left becomes the offset, or is dropped where it is next to nothing.
Shapes: N rows, R of them at a time, B blocks of S weights.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.quant.blockwise import QuantizedMatrix
from skipstone.quant.half_scales import halved
from skipstone.quant.packing import pack, unpack
from skipstone.quant.rows import Matrix

__all__ = ["NEGLIGIBLE", "AffineRows", "without_offsets"]

Codes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = "slice | NDArray[np.int64]"

# What is a smaller share (root mean square) of the span of the codes counts as nothing: a third of a percent of the
# weights, less than what rounding the inputs to 8 bits changes.
NEGLIGIBLE: Final = 0.0008
_NUM_FACTORS: Final = (
    4  # tried a block, from the largest down: the zero point's error falls from 3.6 % of a step to 2.2
)


class AffineRows:
    """Collects a matrix [N, B * S] of `bits`, some rows at a time; `highest` is the largest code of the other program.

    Rows with a `lowest` get zero points and offsets. Those without have codes whose middle 2**(bits - 1) is 0.
    """

    def __init__(self, shape: tuple[int, int], *, bits: int, block_size: int, highest: int) -> None:
        self.shape, self.bits, self.block_size, self.highest = shape, bits, block_size, highest
        num_rows, num_blocks = shape[0], shape[1] // block_size
        self.data = np.empty((num_rows, num_blocks, block_size * bits // 8), np.uint8)
        self.scales = np.empty((num_rows, num_blocks), np.float32)
        self.zero_points: Codes | None = None  # not packed
        self.offsets: Floats | None = None
        self._step_power = self._coarse_power = 0.0

    def fill(self, rows: Rows, codes: Codes, steps: Floats, lowest: Floats | None = None) -> None:
        """Take the codes [R, B, S], steps and numbers of code 0, both [R, B], of these rows.

        Raises: ValueError for steps or numbers that are NaN or infinite.
        """
        if not (np.isfinite(steps).all() and (lowest is None or np.isfinite(lowest).all())):
            raise ValueError("NaN or infinite scales")
        if lowest is None:
            self.data[rows], self.scales[rows] = pack(codes, self.bits), steps
            return
        if self.zero_points is None or self.offsets is None:
            self.zero_points, self.offsets = np.empty(self.scales.shape, np.uint8), np.empty_like(self.scales)
        self._step_power += float(np.vdot(steps, steps))
        codes, steps, lowest = _spread(codes, steps, lowest)
        codes, scales, places = _on_finer_grid(codes, steps, lowest, self.highest, 2**self.bits - 1)
        coarser = scales[np.abs(scales) > np.abs(steps)]
        self._coarse_power += float(np.vdot(coarser, coarser)) / 12
        self.data[rows], self.scales[rows] = pack(codes, self.bits), scales
        self.zero_points[rows] = np.maximum(-places, 0)
        self.offsets[rows] = lowest - places * scales

    @property
    def fits(self) -> bool:
        """Whether rounding codes of blocks that lie too far from 0 for these bits changes next to nothing."""
        return self._coarse_power <= (NEGLIGIBLE * self.highest) ** 2 * self._step_power

    def matrix(self, *, offsets: bool = True) -> QuantizedMatrix:
        """Return the matrix when all rows are there, its scales as float16 can hold them; maybe without `offsets`."""
        points, rest = self.zero_points, self.offsets if offsets else None
        if rest is not None and float(np.vdot(rest, rest)) <= (NEGLIGIBLE * self.highest) ** 2 * self._step_power:
            rest = None
        return QuantizedMatrix(
            data=self.data,
            scales=halved(self.scales),
            zero_points=None if points is None else pack(points, self.bits),
            bits=self.bits,
            block_size=self.block_size,
            shape=self.shape,
            offsets=rest,
        )


def _spread(codes: Codes, steps: Floats, lowest: Floats) -> tuple[Codes, Floats, Floats]:
    """Return the same blocks, one without a step as codes of 1 and a step of that size."""
    constant = steps == 0
    if not constant.any():
        return codes, steps, lowest
    codes = np.where(constant[..., None], np.uint8(1), codes)
    return codes, np.where(constant, lowest, steps), np.where(constant, np.float32(0), lowest)


def _on_finer_grid(codes: Codes, steps: Floats, lowest: Floats, highest: int, top: int) -> tuple[Codes, Floats, Floats]:
    """Return our codes up to `top`, scales, and where on our grid, counted from 0, the code 0 lies."""
    start: Floats = np.divide(lowest, steps, out=np.zeros_like(lowest), where=steps != 0)
    span: Floats = np.maximum(start + highest, np.float32(0)) - np.minimum(start, np.float32(0))
    factors: Floats = np.floor(np.float32(top + 0.5) / span)
    # A block far from 0 does not fit: its codes are rounded to a coarser grid.
    whole: Floats = np.maximum(factors, np.float32(1))
    factors = np.where(factors < 1, np.float32(top) / span, _best_factors(start, whole, top // highest))
    places: Floats = np.clip(np.rint(start * factors), np.float32(-top), np.float32(top) - np.rint(factors * highest))
    if top >= 2 * highest or (factors < 1).any() or (places > 0).any():
        spread = codes * factors[..., None]
        spread += np.maximum(places, 0)[..., None]
        codes = np.minimum(np.rint(spread, out=spread), top).astype(np.uint8)
    return codes, steps / factors, places


def _best_factors(start: Floats, largest: Floats, most: int) -> Floats:
    """Return the factor of each block, at most `largest`, that brings the zero point nearest to an integer."""
    best, error = largest, np.abs(np.rint(start * largest) / largest - start)
    for less in range(1, min(_NUM_FACTORS, most)):
        factors = np.maximum(largest - np.float32(less), np.float32(1))
        new = np.abs(np.rint(start * factors) / factors - start)
        best, error = np.where(new < error, factors, best), np.minimum(new, error)
    return best


def without_offsets(matrix: Matrix) -> Matrix:
    """Return the matrix without offsets, for operators that take none: in 8 bits, on finer grids of its blocks.

    What is left of the zero points, a few hundredths of a step, is dropped.
    """
    if isinstance(matrix, np.ndarray) or matrix.offsets is None:
        return matrix
    codes = unpack(matrix.data, matrix.bits, matrix.block_size)
    points = np.full(matrix.scales.shape, 2 ** (matrix.bits - 1), np.uint8)
    if matrix.zero_points is not None:
        points = unpack(matrix.zero_points, matrix.bits, matrix.scales.shape[1])
    rows = AffineRows(matrix.shape, bits=8, block_size=matrix.block_size, highest=2**matrix.bits - 1)
    rows.fill(slice(None), codes, matrix.scales, matrix.offsets - points * matrix.scales)
    return rows.matrix(offsets=False)
