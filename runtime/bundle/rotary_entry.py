"""How a kind of layers turns positions, as the manifest says it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipstone.errors import BundleError

__all__ = ["RotaryEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryEntry:
    """How fast queries and keys turn: `frequencies` are radians per position, one for each pair of channels.

    They are numbers of float32. Cosines and sines are multiplied by `magnitude`. Long texts take `long_frequencies`
    where there are some. Raises: BundleError for what is no finite number, and for lists of different lengths.
    """

    frequencies: tuple[float, ...]
    magnitude: float = 1.0
    long_frequencies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.magnitude, *self.frequencies, *(self.long_frequencies or ())))):
            raise BundleError("frequencies and magnitude must be finite numbers")
        if not self.frequencies:
            raise BundleError("frequencies is empty")
        if self.long_frequencies is not None and len(self.long_frequencies) != len(self.frequencies):
            found = f"{len(self.long_frequencies)} and {len(self.frequencies)}"
            raise BundleError(f"long_frequencies and frequencies must have one length, found {found}")
