"""The integers of GGUF's kinds of blocks: one function a kind takes the bytes apart.

Each returns codes, steps, and the number that code 0 stands for, if that is not fixed. Shapes: R rows, n blocks of GGUF
in each, of `num_bytes` bytes; B of our blocks in each, of S weights. Nibbles, bits and scales lie as the sources of
ggml say (ggml-common.h and ggml-quants.c); d and m are what they call so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "BlockKind", "Codes"]

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]


class Codes(NamedTuple):
    """Some rows: weight = step * code + lowest; without `lowest`, step * (code - 2**(bits - 1))."""

    codes: Bytes  # [R, B, S]
    steps: Floats  # [R, B]
    lowest: Floats | None = None  # [R, B]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKind:
    """How blocks of `num_bytes` become integers of `bits` in ours of `block_size`; `highest` is their largest code.

    `is_exact`: they stand for the same numbers. The others have products for scales, which are rounded to what float16
    holds, or a `lowest` of their own, so zero points that are no integers.
    """

    read: Callable[[Bytes], Codes]
    num_bytes: int
    bits: int
    block_size: int
    highest: int
    is_exact: bool = False
    has_lowest: bool = False

    @property
    def is_native(self) -> bool:
        """Whether it is as small as ours."""
        return self.is_exact and self.num_bytes * 8 == self.block_size * self.bits + 16


def _halves(blocks: Bytes, start: int) -> Floats:
    """[R, n, num_bytes] to the float16 numbers [R, n] that begin at byte `start` of each block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0].astype(np.float32)


def _nibbles(stored: Bytes) -> Bytes:
    """[..., s] to [..., 2 * s]: first the low halves of all bytes, then the high ones."""
    codes = np.empty((*stored.shape[:-1], 2, stored.shape[-1]), np.uint8)
    np.bitwise_and(stored, 15, out=codes[..., 0, :])
    np.right_shift(stored, 4, out=codes[..., 1, :])
    return codes.reshape(*stored.shape[:-1], -1)


def _pairs(stored: Bytes) -> Bytes:
    """[..., s] to [..., 4 * s]: of all bytes the lowest two bits, then the next two, and so on."""
    codes = np.empty((*stored.shape[:-1], 4, stored.shape[-1]), np.uint8)
    for place in range(4):
        np.right_shift(stored, 2 * place, out=codes[..., place, :])
    codes &= 3
    return codes.reshape(*stored.shape[:-1], -1)


def _fifth_bits(stored: Bytes) -> Bytes:
    """[R, n, 4] to [R, n, 32]: the bits of each block, worth 16."""
    bits = np.unpackbits(np.ascontiguousarray(stored), axis=-1, bitorder="little")
    bits <<= 4
    return bits


def _q4_0(blocks: Bytes) -> Codes:
    return Codes(_nibbles(blocks[..., 2:]), _halves(blocks, 0))


def _q4_1(blocks: Bytes) -> Codes:
    return Codes(_nibbles(blocks[..., 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: Bytes) -> Codes:
    codes = _nibbles(blocks[..., 6:])
    codes |= _fifth_bits(blocks[..., 2:6])
    codes += 128 - 16
    return Codes(codes, _halves(blocks, 0))


def _q5_1(blocks: Bytes) -> Codes:
    codes = _nibbles(blocks[..., 8:])
    codes |= _fifth_bits(blocks[..., 4:8])
    return Codes(codes, _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: Bytes) -> Codes:
    return Codes(blocks[..., 2:] ^ np.uint8(128), _halves(blocks, 0))


def _q2_k(blocks: Bytes) -> Codes:
    scales, d, m = blocks[..., :16], _halves(blocks, 80), _halves(blocks, 82)
    quarters = blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 32)
    steps, lowest = d[..., None] * (scales & 15), -m[..., None] * (scales >> 4)
    return _in_rows(_pairs(quarters), 16, steps, lowest)


def _q3_k(blocks: Bytes) -> Codes:
    codes = _pairs(blocks[..., 32:96].reshape(*blocks.shape[:2], 2, 32)).reshape(*blocks.shape[:2], 8, 32)
    for place in range(8):
        codes[..., place, :] |= (blocks[..., :32] >> np.uint8(place) & np.uint8(1)) << np.uint8(2)
    codes += 8 - 4
    low, high = _nibbles(blocks[..., 96:104]), _pairs(blocks[..., 104:108])
    steps = _halves(blocks, 108)[..., None] * ((low | high << np.uint8(4)).astype(np.float32) - 32)
    return _in_rows(codes, 16, steps)


def _q4_k(blocks: Bytes) -> Codes:
    nibbles = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return _in_rows(nibbles, 32, *_steps_and_lowest(blocks))


def _q5_k(blocks: Bytes) -> Codes:
    codes = _nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    for place in range(8):
        codes[..., place, :] |= (blocks[..., 16:48] >> np.uint8(place) & np.uint8(1)) << np.uint8(4)
    return _in_rows(codes, 32, *_steps_and_lowest(blocks))


def _q6_k(blocks: Bytes) -> Codes:
    codes = _nibbles(blocks[..., :128].reshape(*blocks.shape[:2], 2, 64))
    codes |= _pairs(blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 32)) << np.uint8(4)
    codes += 128 - 32
    steps = _halves(blocks, 208)[..., None] * blocks[..., 192:208].view(np.int8)
    return _in_rows(codes, 16, steps)


# What the codes of IQ4_NL and IQ4_XS stand for: int8, here with 128 added.
_CODEBOOK: Final = (np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)) + 128).astype(
    np.uint8
)


def _iq4_nl(blocks: Bytes) -> Codes:
    return Codes(_CODEBOOK[_nibbles(blocks[..., 2:])], _halves(blocks, 0))


def _iq4_xs(blocks: Bytes) -> Codes:
    codes = _CODEBOOK[_nibbles(blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16))]
    lower = (blocks[..., 4:8, None] >> np.array([0, 4], np.uint8) & 15).reshape(*blocks.shape[:2], 8)
    upper = (blocks[..., 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(*blocks.shape[:2], 8)
    steps = _halves(blocks, 0)[..., None] * ((lower | upper << np.uint8(4)).astype(np.float32) - 32)
    return _in_rows(codes, 32, steps)


def _steps_and_lowest(blocks: Bytes) -> tuple[Floats, Floats]:
    """What the first 16 bytes of Q4_K and Q5_K say of the 8 parts of a block: products of 6 bits with d, and with m."""
    scales, points, mixed = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    sixes = np.concatenate([scales & 63, mixed & 15 | scales >> 2 & 48], axis=-1)
    shifts = np.concatenate([points & 63, mixed >> 4 | points >> 2 & 48], axis=-1)
    return _halves(blocks, 0)[..., None] * sixes, -_halves(blocks, 2)[..., None] * shifts


def _in_rows(codes: Bytes, size: int, steps: Floats, lowest: Floats | None = None) -> Codes:
    """The parts of GGUF's blocks, [R, n, parts] with `size` codes each, as B of our blocks."""
    num_rows = len(codes)
    parts = None if lowest is None else lowest.reshape(num_rows, -1)
    return Codes(codes.reshape(num_rows, -1, size), steps.reshape(num_rows, -1), parts)


KINDS: Final[Mapping[str, BlockKind]] = {
    "Q4_0": BlockKind(read=_q4_0, num_bytes=18, bits=4, block_size=32, highest=15, is_exact=True),
    "Q4_1": BlockKind(read=_q4_1, num_bytes=20, bits=4, block_size=32, highest=15, has_lowest=True),
    "Q5_0": BlockKind(read=_q5_0, num_bytes=22, bits=8, block_size=32, highest=31, is_exact=True),
    "Q5_1": BlockKind(read=_q5_1, num_bytes=24, bits=8, block_size=32, highest=31, has_lowest=True),
    "Q8_0": BlockKind(read=_q8_0, num_bytes=34, bits=8, block_size=32, highest=255, is_exact=True),
    "Q2_K": BlockKind(read=_q2_k, num_bytes=84, bits=4, block_size=16, highest=3, has_lowest=True),
    "Q3_K": BlockKind(read=_q3_k, num_bytes=110, bits=4, block_size=16, highest=7),
    "Q4_K": BlockKind(read=_q4_k, num_bytes=144, bits=4, block_size=32, highest=15, has_lowest=True),
    "Q5_K": BlockKind(read=_q5_k, num_bytes=176, bits=8, block_size=32, highest=31, has_lowest=True),
    "Q6_K": BlockKind(read=_q6_k, num_bytes=210, bits=8, block_size=16, highest=63),
    "IQ4_NL": BlockKind(read=_iq4_nl, num_bytes=18, bits=8, block_size=32, highest=15, is_exact=True),
    "IQ4_XS": BlockKind(read=_iq4_xs, num_bytes=136, bits=8, block_size=32, highest=15),
}
