"""Small unsigned integers in bytes, in the order that ONNX Runtime's MatMulNBits and GatherBlockQuantized read.

4 bit: two values a byte, the first in the low nibble. 8 bit: one value a byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "pack", "unpack"]

BITS = (4, 8)


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return values [..., n] below 2**bits as bytes [..., ceil(n * bits / 8)]; with n odd the last nibble is 0."""
    check_bits(bits)
    if bits == 8:
        return np.ascontiguousarray(values)
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return values[..., 0::2] | values[..., 1::2] << np.uint8(4)


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the first `count` values along the last axis of what `pack` made: [..., bytes] to [..., count]."""
    check_bits(bits)
    if bits == 8:
        return packed[..., :count]
    values = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    values[..., 0::2] = packed & 15
    values[..., 1::2] = packed >> 4
    return values[..., :count]


def check_bits(bits: int) -> None:
    """Raise ValueError unless integers of this width can be packed."""
    if bits not in BITS:
        raise ValueError(f"{bits} bits per weight is not supported; choose one of {', '.join(map(str, BITS))}")
