"""Small unsigned integers in bytes, in the order that ONNX Runtime's MatMulNBits and GatherBlockQuantized read.

2 and 4 bit: four and two values a byte, the first in the lowest bits. 8 bit: one value a byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "check_bits", "pack", "unpack"]

BITS = (2, 4, 8)


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return values [..., n] below 2**bits as bytes [..., ceil(n * bits / 8)]; bits left over are 0."""
    check_bits(bits)
    if bits == 8:
        return np.ascontiguousarray(values)
    per_byte = 8 // bits
    if missing := -values.shape[-1] % per_byte:
        zeros = np.zeros((*values.shape[:-1], missing), np.uint8)
        values = np.concatenate([values, zeros], axis=-1)
    packed = values[..., 0::per_byte].copy()
    for place in range(1, per_byte):
        packed |= values[..., place::per_byte] << np.uint8(place * bits)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the first `count` values along the last axis of what `pack` made: [..., bytes] to [..., count]."""
    check_bits(bits)
    if bits == 8:
        return packed[..., :count]
    per_byte, highest = 8 // bits, np.uint8(2**bits - 1)
    values = np.empty((*packed.shape[:-1], per_byte * packed.shape[-1]), np.uint8)
    for place in range(per_byte):
        values[..., place::per_byte] = packed >> np.uint8(place * bits) & highest
    return values[..., :count]


def check_bits(bits: int) -> None:
    """Raise ValueError unless integers of this width can be packed."""
    if bits not in BITS:
        raise ValueError(f"{bits} bits per weight is not supported; choose one of {', '.join(map(str, BITS))}")
