"""Graphs whose shapes are fixed: for some counts of rows and some lengths of the cache, each a variant of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from skipstone.errors import BundleError

__all__ = ["Buckets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """The sizes that there are graphs for, both ascending: rows of a call, and tokens that a cache holds.

    Calls of other sizes take the next larger graph, filled up with rows that nobody reads.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, sizes in (("rows", self.rows), ("contexts", self.contexts)):
            rises = all(first < second for first, second in itertools.pairwise((0, *sizes)))
            if not sizes or not rises:
                raise BundleError(f"buckets.{name} must be numbers that rise from 1 on, found {list(sizes)}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of variants, one for each pair of sizes."""
        return tuple(self.kind(rows, context) for rows in self.rows for context in self.contexts)

    def kind(self, rows: int, context: int) -> str:
        """Return what the graphs of a pair of sizes are called among the variants."""
        return f"rows-{rows}-context-{context}"

    def rows_for(self, count: int) -> int:
        """Return the rows of the graph that takes so many at once; the most that there are where no graph does."""
        return _next(self.rows, count)

    def context_for(self, count: int) -> int:
        """Return the length of the cache for so many tokens; the longest where none is long enough."""
        return _next(self.contexts, count)


def _next(sizes: Sequence[int], count: int) -> int:
    return next((size for size in sizes if size >= count), sizes[-1])
