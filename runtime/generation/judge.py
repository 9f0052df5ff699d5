"""The logits behind several short paths of tokens that may follow one text: in one call where they can be a tree."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Draft, Sequence

__all__ = ["Path", "rows_behind"]

Path: TypeAlias = tuple[int, ...]

MAX_ROWS = 64


def rows_behind(
    sequence: Sequence, paths: SequenceOf[Path], *, source: str
) -> Iterator[tuple[Path, NDArray[np.float32]]]:
    """Yield each path with the logits [V] for what follows it, valid until the next; the text stays as it is.

    The paths hold their own beginnings, the empty one too, and beginnings come first. One call for a tree; where there
    can be none, a call or more for each path that no other goes on from.
    """
    others = [path for path in paths if path]
    is_small = len(others) <= min(MAX_ROWS, sequence.draft_room)
    if others and is_small and sequence.takes_trees and len(sequence.token_ids) > 1:
        row_of = {path: row for row, path in enumerate(((), *others))}
        parents = tuple(row_of[path[:-1]] for path in others)
        logits = sequence.extend(Draft(tuple(path[-1] for path in others), source, parents))
        yield from ((path, logits[row]) for path, row in row_of.items())
        return
    yield (), sequence.extend(Draft.empty())[0]
    start, known = len(sequence.token_ids), set[Path]([()])
    for path in others:
        if path not in known:
            longest = max((other for other in others if other[: len(path)] == path), key=len)
            for length, row in enumerate(_rows_along(sequence, longest, source)):
                if longest[:length] not in known:
                    known.add(longest[:length])
                    yield longest[:length], row
            sequence.rollback(start)


def _rows_along(sequence: Sequence, path: Path, source: str) -> Iterator[NDArray[np.float32]]:
    """Yield the logits [V] before each token of a path and behind the last, in calls of few rows."""
    left = [*path]
    while True:
        draft = left[: min(len(left), MAX_ROWS, sequence.draft_room)]
        yield from sequence.extend(Draft.chain(draft, source=source))
        if len(draft) == len(left):
            return
        sequence.commit(left[: len(draft) + 1])
        left = left[len(draft) + 1 :]
