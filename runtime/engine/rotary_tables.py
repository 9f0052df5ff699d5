"""Cosines and sines that attention turns queries and keys by: computed as texts grow, once for all texts and stages."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Buffer, Device
from skipstone.runtime.bundle import Manifest, RotaryEntry

__all__ = ["RotaryTables", "rotary_rows"]

# Positions that are computed at a time: a millisecond's work.
STEP: Final = 1024


class RotaryTables:
    """The tables of all kinds of rotary of a model, for texts of at most `length` tokens; see `rotary_rows`.

    Where long texts turn otherwise, their rows begin at the model's context length. Memory is taken from the system
    where rows are written, so a long context costs nothing until a text is that long.

    Invariant: rows of the first `num_ready` positions are written, and never change.
    """

    def __init__(self, manifest: Manifest, device: Device, *, length: int) -> None:
        self.length, self.num_ready, self._lock = length, 0, Lock()
        self._starts = (0,) if manifest.long_rope_from is None else (0, manifest.context_length)
        shape = (self._starts[-1] + length, manifest.cache[0].head_size // 2)
        self._tables = tuple(
            (rotary, device.resident(shape, manifest.numbers), device.resident(shape, manifest.numbers))
            for rotary in manifest.rotaries
        )

    def buffers(self) -> Mapping[str, Buffer]:
        """Return the tables by their names in the graphs."""
        cosines = {f"cosines_{number}": table for number, (_, table, _) in enumerate(self._tables)}
        return cosines | {f"sines_{number}": table for number, (_, _, table) in enumerate(self._tables)}

    def reach(self, length: int) -> None:
        """Let the rows of the first `length` positions be there. Cost: nothing where they are already."""
        if length <= self.num_ready:
            return
        with self._lock:
            positions = range(self.num_ready, min(-(-length // STEP) * STEP, self.length))
            for rotary, cosines, sines in self._tables:
                for start, is_long in zip(self._starts, (False, True), strict=False):
                    at = slice(start + positions.start, start + positions.stop)
                    rows = rotary_rows(rotary, positions, width=cosines.shape[1], is_long=is_long)
                    for table, values in zip((cosines, sines), rows, strict=True):
                        table.write(values, at)
            self.num_ready = max(self.num_ready, positions.stop)


def rotary_rows(
    rotary: RotaryEntry, positions: range, *, width: int, is_long: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines at some positions, float32 [positions, width] each; further channels are not turned.

    Models are trained and run with angles rounded to float32: far out in a text that moves them visibly, so we round
    as they do.
    """
    frequencies = (rotary.long_frequencies if is_long else None) or rotary.frequencies
    places = np.arange(positions.start, positions.stop, dtype=np.float32)
    angles = np.outer(places, np.array(frequencies, np.float32)).astype(np.float64)
    cosines, sines = np.ones((len(places), width), np.float32), np.zeros((len(places), width), np.float32)
    cosines[:, : len(frequencies)] = np.cos(angles) * rotary.magnitude
    sines[:, : len(frequencies)] = np.sin(angles) * rotary.magnitude
    return cosines, sines
