"""Which rows of a text the cache of a windowed layer holds: as many as the window needs, and some for the way back."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RingLayout"]


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Rows of a text that stand in a cache from row 0 on, when the row at some place of the text is written.

    `unit` rows leave at a time, when no window reaches them any more. That is a function of the place alone, so a
    token has the same bits however the text before it was fed: kernels add up rows in tiles, counted from the first.
    """

    window: int
    unit: int

    @property
    def span(self) -> int:
        """How many rows stay at least: those of a window, filled up to whole units."""
        return -(-self.window // self.unit) * self.unit

    @property
    def num_working(self) -> int:
        """How many rows kernels see at most."""
        return self.span + self.unit

    @property
    def num_rows(self) -> int:
        """How many rows a cache has: the rows that left last are kept behind the others, for a text that goes back."""
        return self.num_working + self.unit

    def start(self, place: int) -> int:
        """Return which row of the text stands first when the row at `place` is written."""
        return max(0, place - self.span) // self.unit * self.unit

    def next_turn(self, place: int) -> int:
        """Return the first place behind `place` at which rows leave."""
        return self.start(place) + self.num_working
