"""A bundle, to be compared.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import numpy as np

from skipstone.evaluate.judged_model import Logits, random_tokens
from skipstone.evaluate.weights import num_weights
from skipstone.runtime.decoding import PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import CacheName, Draft, Model, Sequence
from skipstone.runtime.sampling import Sampler

__all__ = ["BundleModel"]


class BundleModel:
    """A bundle. Invariant: `_window[:_place]` is in the cache, but for its last token."""

    def __init__(self, path: Path, *, device: str, threads: int | None, cache: CacheName | None = None) -> None:
        self._model = model = Model.open(path, device=device, threads=threads, cache=cache)
        weights = model.manifest.files["weights.bin"].size
        self.num_bytes = model.manifest.total_bytes - model.manifest.draft_model_bytes
        self.bits_per_weight = 8 * weights / num_weights(model.bundle)
        self.vocab_size = model.manifest.dimensions.vocab_size
        self.context_length = model.manifest.context_length
        self.threads = model.device.threads
        self._sequence: Sequence | None = None
        self._window: list[int] = []
        self._place = 0

    def text(self, token_ids: SequenceOf[int]) -> str:
        """Return what tokens say, special ones with their names."""
        return self._model.tokenizer.decode(token_ids, skip_special_tokens=False)

    def begin(self, token_ids: SequenceOf[int]) -> None:
        """Forget the text, and read a window of tokens next."""
        self._window, self._place = list(token_ids), 1
        self._sequence = self._model.new_sequence(context_length=min(len(token_ids) + 1, self.context_length))
        self._sequence.append(token_ids[:1])

    def logits(self, num_rows: int) -> Logits:
        """Return the logits [N, V] behind the next `num_rows` tokens of the window."""
        assert self._sequence is not None, "begin comes first"
        pieces, left = list[Logits](), num_rows
        while left:
            targets = self._window[self._place : self._place + min(left, 1 + self._sequence.draft_room)]
            pieces.append(self._sequence.extend(Draft.chain(targets[:-1], source="text")).copy())
            self._sequence.commit(targets)
            self._place, left = self._place + len(targets), left - len(targets)
        return np.concatenate(pieces)

    def fill(self, num_tokens: int, *, room: int) -> float:
        """Forget the text, read so many random tokens, and return the seconds; `room` is for tokens behind them."""
        self._sequence = self._model.new_sequence(context_length=min(num_tokens + room + 2, self.context_length))
        start = time.perf_counter()
        self._sequence.append(random_tokens(num_tokens, self.vocab_size))
        self.decode(1)
        return time.perf_counter() - start

    def decode(self, num_tokens: int) -> float:
        """Write so many tokens behind what was read, and return the seconds."""
        assert self._sequence is not None, "fill comes first"
        start, accept = time.perf_counter(), match(Sampler(greedy=True), self._sequence.token_ids)
        steps = decode(self._sequence, drafter=PlainDrafter(), accept=accept, max_new_tokens=num_tokens, stop_ids=())
        for _ in steps:
            pass
        return time.perf_counter() - start
