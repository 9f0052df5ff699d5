"""Several texts that go on from one: they share its cached rows, and a step makes a token of each.

Shapes: k branches, V vocabulary, M rows behind the shared text.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.copied_branches import BatchedBranches, ForkedBranches
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import HIDDEN, TreeMask
from skipstone.runtime.engine.sequence import Sequence

__all__ = ["MOST_TREE_ROWS", "Branches", "branches_behind", "open_branches"]

Logits = NDArray[np.float32]

# Each branch passes the rows of all others, which it does not see; up to so many, that costs less than copies would.
MOST_TREE_ROWS: Final = 512


class Branches(Protocol):
    """k texts that go on from one. At first there is one branch, the text itself; `reorder` splits it."""

    @property
    def logits(self) -> Logits:
        """What follows the shared text [1, V]."""
        ...

    def step(self, token_ids: SequenceOf[int]) -> Logits:
        """Add a token to each branch; return logits [k, V] for what follows, valid until the next step."""
        ...

    def reorder(self, parents: SequenceOf[int]) -> None:
        """Let branch i go on from branch `parents[i]`: one may split, be left out, or change its place."""
        ...

    def last_values(self) -> NDArray[np.float32]:
        """Return what the last layer has kept as values of the last step's tokens [k, F]."""
        ...


@contextmanager
def open_branches(sequence: Sequence, *, most: int, steps: int, alone: bool = False) -> Iterator[Branches]:
    """Read the text of a sequence and yield its branches; afterwards the sequence is as it came, its cache too.

    There are at most `most` branches, and each takes at most `steps` tokens. They are rows of one cache where that can
    be, which is the quickest for long texts; else rows of a batch; else sequences of their own. With `alone` they are
    these in any case: each has the bits that it has without the others. Raises: CacheFull.
    """
    sequence.require_room(steps)
    length = len(sequence.token_ids)
    try:
        logits = sequence.extend(Draft.empty()).copy()
        if alone:
            yield ForkedBranches(sequence, logits)
            return
        with branches_behind(sequence, logits, most=most, steps=steps) as branches:
            yield branches
    finally:
        sequence.rollback(length)


@contextmanager
def branches_behind(sequence: Sequence, logits: Logits, *, most: int, steps: int) -> Iterator[Branches]:
    """Yield branches as `open_branches` does, of a text that was just read; `logits` [1, V] are what `extend` gave.

    Raises: CacheFull.
    """
    sequence.require_room(steps)
    length = len(sequence.token_ids)
    try:
        yield _branches(sequence, logits, most, steps)
    finally:
        sequence.rollback(length)


def _branches(sequence: Sequence, logits: Logits, most: int, steps: int) -> Branches:
    same_angles = sequence.steady_room >= steps
    if sequence.takes_trees and same_angles and most * steps <= min(MOST_TREE_ROWS, sequence.room):
        return TreeBranches(sequence, logits)
    if sequence.takes_batches and same_angles:
        return BatchedBranches(sequence, logits, most=most, steps=steps)
    return ForkedBranches(sequence, logits)


class TreeBranches:
    """Branches as rows of one cache, behind the shared text: each sees its own rows only, so splitting copies none."""

    def __init__(self, sequence: Sequence, logits: Logits) -> None:
        self.logits = logits
        self._sequence, self._num_steps = sequence, 0
        self._hidden = np.zeros((1, 0), np.float32)  # which rows behind the text a branch does not see, [k, M]

    def step(self, token_ids: SequenceOf[int]) -> Logits:
        num_rows, num_branches = self._hidden.shape[1], len(token_ids)
        own = np.full((num_branches, num_branches), HIDDEN, np.float32)
        np.fill_diagonal(own, 0)
        self._hidden = np.concatenate([self._hidden, own], axis=1)
        # Rows stand one behind the other, but all of a step have the same position.
        depths = np.full(num_branches, self._num_steps - num_rows)
        self._num_steps += 1
        return self._sequence.extend_by_branches(token_ids, TreeMask(depths, self._hidden))

    def reorder(self, parents: SequenceOf[int]) -> None:
        self._hidden = self._hidden[list(parents)]

    def last_values(self) -> NDArray[np.float32]:
        end = self._sequence.num_cached + self._hidden.shape[1]
        return self._sequence.cache.values(slice(end - len(self._hidden), end))
