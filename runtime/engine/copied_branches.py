"""Branches with a cache of their own, for texts whose cache cannot hold rows that branch.

Shapes: B texts of a batch, k <= B branches, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.calls import Call, open_call
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import Feed
from skipstone.runtime.engine.sequence import Sequence

__all__ = ["BatchedBranches", "ForkedBranches"]

Logits = NDArray[np.float32]


class BatchedBranches:
    """Branches as the texts of a batch, each with a copy of the shared rows, fed in one call."""

    def __init__(self, sequence: Sequence, logits: Logits, *, most: int, steps: int) -> None:
        self.logits = logits
        self._start, self._position = sequence.num_cached, sequence.next_position
        self._num_steps, self._num_fed, self._sessions = 0, 1, sequence.sessions
        self._cache = self._sessions.new_cache(min(sequence.capacity, self._start + max(steps, 1)), batch=most)
        for number in range(most):
            self._cache.row(number).copy_from(sequence.cache, self._start)
        self._call: Call | None = None

    def step(self, token_ids: SequenceOf[int]) -> Logits:
        batch, done = self._cache.batch, self._num_steps
        fed = [*token_ids, *[token_ids[-1]] * (batch - len(token_ids))]  # what nobody asks for is as any other
        places, positions = np.full(batch, self._start + done), np.full(batch, self._position + done)
        feed = Feed(np.array(fed)[:, None, None], places, range(batch), positions)
        self._call = self._call or open_call(self._sessions, self._cache, feed)
        self._num_steps, self._num_fed = done + 1, len(token_ids)
        return self._call.run(feed)[: self._num_fed]

    def reorder(self, parents: SequenceOf[int]) -> None:
        own = slice(self._start, self._start + self._num_steps)
        if self._num_steps and list(parents) != list(range(len(parents))):
            self._cache.reorder(parents, own)

    def last_values(self) -> NDArray[np.float32]:
        last = self._start + self._num_steps - 1
        rows = [self._cache.row(number).values(slice(last, last + 1)) for number in range(self._num_fed)]
        return np.concatenate(rows)


class ForkedBranches:
    """Branches as sequences, each with a copy of the cache, fed one after the other."""

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

    def last_values(self) -> NDArray[np.float32]:
        rows = [text.cache.values(slice(text.num_cached - 1, text.num_cached)) for text in self._texts]
        return np.concatenate(rows)
