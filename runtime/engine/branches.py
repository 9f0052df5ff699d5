"""Several texts that go on from one: they share its cached rows, and a step makes a token of each.

Shapes: k branches, V vocabulary, M rows behind the shared text.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import HIDDEN, TreeMask
from skipstone.runtime.engine.sequence import Sequence

__all__ = ["Branches", "open_branches"]

Logits = NDArray[np.float32]


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


@contextmanager
def open_branches(sequence: Sequence, *, most: int, steps: int) -> Iterator[Branches]:
    """Read the text of a sequence and yield its branches; afterwards the sequence is as it came, its cache too.

    There are at most `most` branches, and each takes at most `steps` tokens. Raises: CacheFull.
    """
    sequence.require_room(steps)
    length = len(sequence.token_ids)
    try:
        logits = sequence.extend(Draft.empty()).copy()
        is_tree = sequence.takes_trees and sequence.room >= most * steps and sequence.draft_room > steps
        yield TreeBranches(sequence, logits) if is_tree else ForkedBranches(sequence, logits)
    finally:
        sequence.rollback(length)


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


class ForkedBranches:
    """Branches as sequences of their own, each with a copy of the cache, fed one after the other."""

    def __init__(self, sequence: Sequence, logits: Logits) -> None:
        self.logits = logits
        self._texts = [sequence.fork()]

    def step(self, token_ids: SequenceOf[int]) -> Logits:
        rows = []
        for text, token_id in zip(self._texts, token_ids, strict=True):
            text.append([token_id])
            rows.append(text.extend(Draft.empty())[0].copy())
        return np.stack(rows)

    def reorder(self, parents: SequenceOf[int]) -> None:
        taken: set[int] = set()
        texts = []
        for parent in parents:
            texts.append(self._texts[parent].fork() if parent in taken else self._texts[parent])
            taken.add(parent)
        self._texts = texts
