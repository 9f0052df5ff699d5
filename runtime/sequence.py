"""One text on one device: its tokens, its cache, and the way back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.cache import KVCache
from skipstone.runtime.call import BoundCall
from skipstone.runtime.draft import Draft

if TYPE_CHECKING:
    from skipstone.runtime.model import Model

__all__ = ["PREFILL_CHUNK", "Sequence"]

# Longer prompts are fed in pieces: attention scores of a piece stay in the cache, and Ctrl-C is heard between two.
PREFILL_CHUNK = 256
# Calls of these many shapes stay bound; the shapes of a decoding loop are few, those of prompts are not.
BOUND_CALLS = 16


class Sequence:
    """The tokens of one text and the cache of what the model has seen of them.

    Invariant: `num_cached` < len(token_ids) unless both are 0: the last token is pending, emitted and not yet in the
    cache. Between `extend` and `commit` the cache also holds the draft's rows. Not safe to share between threads.
    """

    def __init__(self, model: Model, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._calls: OrderedDict[tuple[int, int], BoundCall] = OrderedDict()
        self._draft: Draft | None = None
        self.token_ids: list[int] = []
        self.num_cached = 0

    @property
    def capacity(self) -> int:
        """How many tokens fit."""
        return self._cache.capacity

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self.capacity - len(self.token_ids)

    def append(self, token_ids: SequenceOf[int]) -> None:
        """Add tokens that are given, not guessed; the next `extend` feeds them. Raises: CacheFull, ConfigError."""
        self.require_room(len(token_ids))
        self._require_known(token_ids)
        self.token_ids.extend(token_ids)
        self._leave_pending()

    def require_room(self, num_tokens: int) -> None:
        """Raise CacheFull unless `num_tokens` more fit."""
        needed = len(self.token_ids) + num_tokens
        if needed > self.capacity:
            raise CacheFull(
                f"cache holds {self.capacity} tokens, {needed} needed; raise the context or shorten the prompt"
            )

    def _require_known(self, token_ids: SequenceOf[int]) -> None:
        vocab_size = self._model.manifest.dimensions.vocab_size
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise ConfigError(f"token id {token_id} is outside the vocabulary of {vocab_size}")

    def _leave_pending(self) -> None:
        """Forget the draft of the last `extend`, and that it cached the last token."""
        self.num_cached = min(self.num_cached, max(len(self.token_ids) - 1, 0))
        self._draft = None

    def extend(self, draft: Draft) -> NDArray[np.float32]:
        """Feed all tokens that are not cached and then the draft; return logits for what follows each of the last.

        Returns [1 + N, V]: row 0 follows the pending token, row i the i-th drafted one. It is the call's own buffer,
        valid until the next call. Raises: CacheFull before any work when the draft does not fit.
        """
        if not self.token_ids:
            raise ConfigError("the text is empty; append at least one token")
        self.require_room(len(draft))
        self._require_known(draft.token_ids)
        self._leave_pending()
        waiting = [*self.token_ids[self.num_cached :], *draft.token_ids]
        num_logits = 1 + len(draft)
        while len(waiting) > max(PREFILL_CHUNK, num_logits):
            size = min(PREFILL_CHUNK, len(waiting) - num_logits)
            self._feed(waiting[:size], num_logits=1)
            waiting = waiting[size:]
        logits = self._feed(waiting, num_logits=num_logits)
        self.num_cached -= len(draft)
        self._draft = draft
        return logits

    def mark_extended(self) -> None:
        """Note that a batched call has fed the pending token, as `extend` with an empty draft would."""
        self.num_cached += 1
        self._draft = Draft.empty()

    def _feed(self, token_ids: SequenceOf[int], *, num_logits: int) -> NDArray[np.float32]:
        call = self.bound_call(len(token_ids), num_logits)
        logits = call.run(np.asarray([token_ids]), np.asarray([self.num_cached]))
        self.num_cached += len(token_ids)
        return logits

    def bound_call(self, num_tokens: int, num_logits: int) -> BoundCall:
        key = (num_tokens, num_logits)
        if key not in self._calls:
            if len(self._calls) == BOUND_CALLS:
                self._calls.popitem(last=False)
            rows = range(num_tokens - num_logits, num_tokens)
            self._calls[key] = BoundCall(self._model, self._cache, num_tokens=num_tokens, rows=rows)
        self._calls.move_to_end(key)
        return self._calls[key]

    def commit(self, accepted: SequenceOf[int]) -> None:
        """Take over what was accepted after `extend`: a prefix of the draft, then at most one other token."""
        if self._draft is None or not accepted:
            raise ConfigError("commit needs an extend before it and at least one accepted token")
        kept = 0
        for guess, token_id in zip(self._draft.token_ids, accepted, strict=False):
            if guess != token_id:
                break
            kept += 1
        if len(accepted) > kept + 1:
            raise ConfigError(f"{len(accepted)} tokens accepted, but the draft explains only the first {kept}")
        self.require_room(len(accepted))
        self._require_known(accepted)
        self.token_ids.extend(accepted)
        self.num_cached += kept
        self._leave_pending()

    def rollback(self, length: int) -> None:
        """Forget all but the first `length` tokens; copies nothing."""
        if not 0 <= length <= len(self.token_ids):
            raise ConfigError(f"cannot go back to {length} tokens, the text has {len(self.token_ids)}")
        del self.token_ids[length:]
        self._leave_pending()

    def fork(self) -> Sequence:
        """Return an independent copy; the cached rows are copied, those of a draft too."""
        twin = self._model.new_sequence(context_length=self.capacity)
        twin._cache.copy_from(self._cache, self.num_cached + len(self._draft or ()))
        twin.token_ids, twin.num_cached, twin._draft = list(self.token_ids), self.num_cached, self._draft
        return twin

    def check(self) -> None:
        """Raise AssertionError if the invariant is broken; for tests."""
        pending = 0 if self._draft is not None or not self.token_ids else 1
        assert 0 <= self.num_cached <= len(self.token_ids) - pending, (self.num_cached, len(self.token_ids))
        assert len(self.token_ids) <= self.capacity
