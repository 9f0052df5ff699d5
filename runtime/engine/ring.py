"""The cache of a layer that sees a window, for one text: rows that no window reaches make way for new ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Buffer
from skipstone.runtime.bundle import RingLayout

__all__ = ["Ring"]


class Ring:
    """Keys and values [1, K, C, D] of one layer of one text, whose rows from `start` on stand from row 0 on.

    Invariant: with `has_left`, the rows that left last stand at the end of the buffers, so that the text may go back
    over them. Which rows are written, beside, is known by whoever passes the places.
    """

    def __init__(self, layout: RingLayout, buffers: tuple[Buffer, Buffer]) -> None:
        self.layout, self._buffers = layout, buffers
        self.start, self.has_left = 0, False
        end = buffers[0].shape[2]
        self._kept_apart = slice(end - layout.unit, end)

    @property
    def first(self) -> int:
        """The first row of the text that is still there."""
        return self.start - (self.layout.unit if self.has_left else 0)

    def holds(self, length: int) -> bool:
        """Return whether a text of `length` rows, of those that were written, can go on."""
        return self.layout.start(length) >= self.first

    def turn_to(self, place: int, num_rows: int = 1) -> None:
        """Make ready for rows from `place` on: let rows leave, or take back those that left last.

        What stands before them is of no use where the text does not hold so many rows.
        """
        start, unit = self.layout.start(place), self.layout.unit
        if start > self.start:
            self._leave(start - self.start, num_written=place - self.start)
        elif start == self.start - unit and self.has_left:
            num_behind = max(0, place - self.start)
            self._move(slice(num_behind), slice(unit, unit + num_behind))
            self._move(self._kept_apart, slice(unit))
            self.has_left = False
        elif start < self.start:
            self.has_left = False
        self.start = start
        end = place - start + num_rows
        assert end <= self._kept_apart.stop, f"{num_rows} rows from {place} on do not fit a ring"
        self.has_left = self.has_left and end <= self._kept_apart.start

    def _leave(self, num_rows: int, *, num_written: int) -> None:
        """Let the first rows of those that are written leave."""
        unit = self.layout.unit
        self.has_left = num_rows == unit and num_written <= self._kept_apart.start
        if self.has_left:
            self._move(slice(unit), self._kept_apart)
        if num_rows < num_written <= self._kept_apart.stop:
            self._move(slice(num_rows, num_written), slice(num_written - num_rows))

    def _move(self, source: slice, target: slice) -> None:
        for buffer in self._buffers:
            buffer.move(np.s_[:, :, source], np.s_[:, :, target])

    def rows(self, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return keys and values [K, T, D] of the rows from `first` on of a text of `length` rows."""
        here = slice(length - self.start)
        pieces = [self._kept_apart, here] if self.has_left else [here]
        key, value = (
            np.concatenate([buffer.read(np.s_[0, :, piece]) for piece in pieces], axis=1) for buffer in self._buffers
        )
        return key, value

    def fill(self, rows: tuple[NDArray[Any], NDArray[Any]], *, first: int) -> None:
        """Take keys and values [K, T, D] of a text's rows from `first` on, to its last."""
        length = first + rows[0].shape[1]
        self.start = self.layout.start(length)
        num_before = self.start - first
        self.has_left = num_before >= self.layout.unit
        for buffer, values in zip(self._buffers, rows, strict=True):
            buffer.write(values[:, num_before:], np.s_[0, :, : length - self.start])
            if self.has_left:
                buffer.write(values[:, num_before - self.layout.unit : num_before], np.s_[0, :, self._kept_apart])

    def copy_from(self, other: Ring) -> None:
        """Take over all that another text has there."""
        self.start, self.has_left = other.start, other.has_left
        for mine, theirs in zip(self._buffers, other._buffers, strict=True):
            mine.copy_from(theirs, ...)

    def local(self, rows: slice) -> slice:
        """Return where rows of the text stand, those of them that are there."""
        return slice(max(0, (rows.start or 0) - self.start), max(0, rows.stop - self.start))
