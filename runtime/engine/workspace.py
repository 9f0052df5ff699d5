"""Where one text is computed: its cache and the calls bound to it, handed on to the next text when it is gone."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.call import BoundCall
from skipstone.runtime.engine.draft_vocabulary import DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Part
from skipstone.runtime.engine.optimum_call import WrappedCall

if TYPE_CHECKING:
    from skipstone.runtime.engine.model import Model

__all__ = ["BOUND_CALLS", "Spares", "Workspace"]

# Calls of these many shapes stay bound; the shapes of a decoding loop are few, those of prompts are not.
BOUND_CALLS = 24


class Workspace:
    """A cache and the calls bound to it. To bind one costs as much as a small model's step, so they are kept."""

    def __init__(self, model: Model, cache: KVCache) -> None:
        self.cache = cache
        self._model = model
        self._calls: OrderedDict[tuple[int, range, Part], BoundCall | WrappedCall] = OrderedDict()
        self._buffers: dict[tuple[str, int], NDArray[np.float32]] = {}

    def call(self, num_tokens: int, rows: range, part: Part = WHOLE) -> BoundCall | WrappedCall:
        """Return the call that feeds `num_tokens` and gives logits for these rows, bound when first asked for."""
        key = (num_tokens, rows, part)
        if key not in self._calls:
            if len(self._calls) == BOUND_CALLS:
                self._calls.popitem(last=False)
            self._calls[key] = self._open(num_tokens, rows, part)
        self._calls.move_to_end(key)
        return self._calls[key]

    def _open(self, num_tokens: int, rows: range, part: Part) -> BoundCall | WrappedCall:
        if self._model.manifest.graph == "optimum":
            return WrappedCall(self._model, self.cache, num_tokens=num_tokens, rows=rows)
        vocabulary = self.draft_vocabulary if part.head and part.pruned else None
        return BoundCall(
            self._model,
            self.cache,
            num_tokens=num_tokens,
            rows=rows,
            part=part,
            zeros=self._zeros,
            vocabulary=vocabulary,
        )

    @cached_property
    def draft_vocabulary(self) -> DraftVocabulary:
        """The tokens that the model's draft head knows, which must be there; all pruned calls share it."""
        (num_first,) = (out.shape[1] for out in self._model.draft_head.get_outputs() if out.name == "logits")
        return DraftVocabulary(num_first=num_first, vocab_size=self._model.manifest.dimensions.vocab_size)

    def _zeros(self, name: str, num_rows: int, width: int) -> NDArray[np.float32]:
        """Return zeros [num_rows, width] in memory that calls of like shape share: one runs at a time."""
        size = 1 << (num_rows - 1).bit_length()
        if (name, size) not in self._buffers:
            self._buffers[name, size] = np.zeros((size, width), np.float32)
        return self._buffers[name, size][:num_rows]


class Spares:
    """The workspace of the last text that is gone, for the next one with as much room."""

    def __init__(self) -> None:
        self._spare: Workspace | None = None
        self._lock = RLock()  # a text may be collected, and give its workspace, while another takes one

    def take(self, capacity: int) -> Workspace | None:
        with self._lock:
            spare = self._spare
            if spare is None or spare.cache.capacity != capacity:
                return None
            self._spare = None
            return spare

    def give(self, workspace: Workspace) -> None:
        with self._lock:
            self._spare = workspace
