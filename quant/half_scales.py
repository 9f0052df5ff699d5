"""Scales in 16 bits: float16 numbers, all times one power of two, so that small and large ones fit alike."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["half_exponent", "halved", "nearest_halves"]

Floats: TypeAlias = NDArray[np.float32]

_TOP: Final = 15  # the largest number becomes one below 2**15: float16 ends at 65504
_LOWEST: Final = -126  # of float32's exponents, with all digits
_MOST_CHANGED: Final = 2.0**-11  # float16 has 11 digits


def half_exponent(scales: Floats) -> int | None:
    """Return e where float16 numbers times 2**e are exactly these scales, 0 if that will do; None where none are."""
    if not np.isfinite(scales).all():
        return None
    highest = _exponent(scales)
    for exponent in (0, highest, highest - 1):  # the largest may also lie between 2**15 and the end of float16
        if exponent >= _LOWEST and np.array_equal(_rounded(scales, exponent), scales):
            return exponent
    return None


def halved(scales: Floats) -> Floats:
    """Return the nearest scales that have a `half_exponent`: each changes by at most a part in 2,000.

    Where they are so far apart that one would change by more, they stay as they are.
    """
    exponent = _exponent(scales)
    if exponent < _LOWEST or not np.isfinite(scales).all() or half_exponent(scales) is not None:
        return scales
    nearest = _rounded(scales, exponent)
    return nearest if (np.abs(nearest - scales) <= _MOST_CHANGED * np.abs(scales)).all() else scales


def nearest_halves(values: Floats) -> Floats:
    """Return the nearest numbers that have a `half_exponent`, however small some become."""
    return _rounded(values, max(_exponent(values), _LOWEST))


def _exponent(scales: Floats) -> int:
    """Return the exponent that leaves the most room below the largest scale."""
    largest = float(np.abs(scales).max(initial=0))
    return math.frexp(largest)[1] - _TOP if math.isfinite(largest) else 0


def _rounded(scales: Floats, exponent: int) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.ldexp(scales, -exponent).astype(np.float16).astype(np.float32), exponent)
