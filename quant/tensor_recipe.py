"""How one matrix is stored: bits, block, zero points, and how its integers are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from skipstone.quant.blockwise import METHODS, check_block_size

__all__ = ["DEFAULT_GROUP_SIZES", "FAST_GROUP_SIZE", "TensorRecipe", "listed"]

# The largest blocks in which one row is multiplied as several are, bit by bit, on processors with AVX-512 VNNI: in
# larger ones kernels take rows in pairs, and round an odd last one in another way.
DEFAULT_GROUP_SIZES: Final[Mapping[int, int]] = {4: 32, 8: 32}
FAST_GROUP_SIZE: Final = 128
_BITS: Final = (2, 4, 8, 32)
_SCALE_BITS: Final = 16
_BY_TEXT: Final = ("weighted", "gptq")
_METHODS: Final = (*METHODS, *_BY_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecipe:
    """How to store one matrix; 32 bits keep it as it is, in float32.

    `method`: `search` and `absmax` are those of `quantize`; `weighted` is a search in which each column counts by its
    inputs on a text, `gptq` rounds by all that the text tells. Where inputs are not known, these two are `search`.
    `outliers`: so many columns, or this share of them, stay numbers of 16 bits: those with the largest inputs on the
    text, or, where the method reads none, with the largest weights.
    """

    bits: int
    block_size: int = FAST_GROUP_SIZE
    symmetric: bool = True
    method: str = "search"
    outliers: float = 0

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"{self.bits} bits per weight is not known; choose one of {listed(_BITS)}")
        check_block_size(self.block_size)
        if self.method not in _METHODS:
            raise ValueError(f"quantization method {self.method!r} is not known; choose one of {listed(_METHODS)}")
        if not (0 <= self.outliers < 1 or self.outliers == self.outliers // 1 > 0):
            raise ValueError(f"outliers are a number of columns or a share of them below 1, found {self.outliers}")
        if self.outliers and self.bits == 32:
            raise ValueError("outliers stay numbers beside integers, and 32 bits are numbers; leave them out")

    @property
    def reads_text(self) -> bool:
        """Whether the integers depend on the inputs of the matrix."""
        return self.bits < 32 and self.method in _BY_TEXT

    @property
    def plain_method(self) -> str:
        """The method where inputs are not known."""
        return "search" if self.method in _BY_TEXT else self.method

    def num_outliers(self, columns: int) -> int:
        """Return how many of the columns of a matrix stay numbers."""
        if self.bits == 32:
            return 0
        return min(columns, int(self.outliers) if self.outliers >= 1 else round(self.outliers * columns))

    def num_bits(self, rows: int, columns: int) -> int:
        """Return the stored size of a matrix [rows, columns] in bits, with its scales and zero points."""
        if self.bits == 32:
            return 32 * rows * columns
        blocks = -(-columns // self.block_size)
        zero_point_bits = 0 if self.symmetric else 8 * -(-blocks * self.bits // 8)
        kept_bits = _SCALE_BITS * self.num_outliers(columns)
        return rows * (blocks * (self.block_size * self.bits + _SCALE_BITS) + zero_point_bits + kept_bits)


def listed(choices: tuple[object, ...]) -> str:
    """Return choices as a message lists them."""
    return ", ".join(map(str, choices))
