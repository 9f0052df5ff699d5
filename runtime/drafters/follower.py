"""A draft model's own sequence, kept in step with the target's text."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.draft import Draft
from skipstone.runtime.model import Model

__all__ = ["Follower"]

NOTHING = Draft.empty()


class Follower:
    """Feeds a draft model, whose tokens are those of the target, with the target's text.

    Invariant: after `follow(history)` returned more than 0, `sequence` holds `history`, and its cache is that of a
    fresh prefill. What is drafted comes behind; of that, the next `follow` keeps what came true.
    """

    def __init__(self, model: Model, *, capacity: int, vocab_size: int) -> None:
        """`capacity` and `vocab_size` are those of the target; the drafter's context may be shorter."""
        self.sequence = model.new_sequence(context_length=min(capacity, model.manifest.context_length))
        self._vocab_size = vocab_size
        self._num_shared = 0
        self._fed: Draft | None = None  # since the last token was taken

    def follow(self, history: SequenceOf[int]) -> int:
        """Take over the text, which only grows; return how many guesses fit behind it, at least 0.

        A text that has outgrown the drafter's context is not taken over. Feeds nothing; cost: O(new tokens).
        """
        sequence = self.sequence
        room = sequence.capacity - len(history)
        if room < 1:
            return 0
        own = sequence.token_ids
        if self._fed is not None and len(history) > len(own) == self._num_shared:
            new = history[len(own) :]
            sequence.commit(new[: len(self._fed.path(new))])  # their rows are cached
        self._fed = None
        same, end = self._num_shared, min(len(own), len(history))
        while same < end and own[same] == history[same]:
            same += 1
        sequence.rollback(same)
        sequence.append(history[same:])
        self._num_shared = len(history)
        return sequence.draft_room

    @property
    def token_ids(self) -> SequenceOf[int]:
        """The text and what was taken behind it."""
        return self.sequence.token_ids

    def logits(self, draft: Draft = NOTHING) -> NDArray[np.float32]:
        """Feed what is waiting and the draft; return logits [1 + N, V] of the target's V, valid until the next call."""
        logits = self.fit(self.sequence.extend(draft))
        self._fed = draft
        return logits

    def take(self, token_id: int) -> None:
        """Put a token behind the last one, whose logits were asked for without a draft."""
        self.sequence.commit([token_id])
        self._fed = None

    def fit(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the drafter's logits for the target's tokens only: paddings of the two vocabularies may differ."""
        missing = self._vocab_size - logits.shape[1]
        if missing > 0:
            return np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)
        return logits[:, : self._vocab_size]
