"""A text read with some experts of each layer, and how far that is from all of them.

Shapes: T tokens of a window, N rows of a piece, V vocabulary, K of the likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.bundle import SPARSE
from skipstone.runtime.engine import Feed, Model, Part

__all__ = ["Counts", "Reader"]

Floats: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = tuple[int, ...]
"""How many experts are active, by layer."""
TOP: Final = 512
MOST_LOGITS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class _Law:
    """The likeliest tokens [N, K] after each row, and their log probabilities by all experts."""

    token_ids: NDArray[np.int64]
    log_probs: Floats

    @classmethod
    def of(cls, logits: Floats) -> _Law:
        top = np.argpartition(logits, -min(TOP, logits.shape[1]), axis=1)[:, -TOP:]
        return cls(top, _log_probs(logits, top))

    def divergence(self, logits: Floats) -> float:
        """Return the sum of KL(this || the law of logits [N, V]) over the rows, all unlikely tokens taken as one."""
        found = _log_probs(logits, self.token_ids)
        rest, other = (np.maximum(1 - np.exp(values).sum(axis=1), 1e-6) for values in (self.log_probs, found))
        inside = (np.exp(self.log_probs) * (self.log_probs - found)).sum(axis=1)
        return float((inside + rest * np.log(rest / other)).sum(dtype=np.float64))


def _log_probs(logits: Floats, token_ids: NDArray[np.int64]) -> Floats:
    """Return the log probabilities [N, K] of some tokens of each row."""
    most = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - most).sum(axis=1, keepdims=True))
    return np.asarray(np.take_along_axis(logits, token_ids, axis=1) - most - total)


class Reader:
    """Reads windows [T] with so many experts in each layer. KL is in nats per token, of all experts to these."""

    def __init__(self, model: Model, windows: SequenceOf[SequenceOf[int]]) -> None:
        self._rows = max(1, MOST_LOGITS // model.manifest.dimensions.vocab_size)
        self._workspace = model.new_workspace(context_length=max(map(len, windows)))
        self._windows, self._laws = [np.asarray(window) for window in windows], dict[int, list[_Law]]()

    def num_windows_with(self, num_tokens: int) -> int:
        """Return how many of the first windows have so many tokens; all where they have fewer."""
        enough = (number for number in range(1, len(self._windows)) if self.num_tokens(number) >= num_tokens)
        return next(enough, len(self._windows))

    def num_tokens(self, num_windows: int) -> int:
        """Return how many tokens the first windows have."""
        return sum(map(len, self._windows[:num_windows]))

    def kl(self, counts: Counts, num_windows: int) -> float:
        """Return the KL along the first windows."""
        part, total = Part(variant=SPARSE, active=counts), 0.0
        for number in range(num_windows):
            if number not in self._laws:
                self._laws[number] = [_Law.of(logits) for logits in self._logits(number, Part())]
            pairs = zip(self._laws[number], self._logits(number, part), strict=True)
            total += sum(law.divergence(logits) for law, logits in pairs)
        return total / self.num_tokens(num_windows)

    def _logits(self, number: int, part: Part) -> Iterator[Floats]:
        """Yield the logits [N, V] of pieces of a window, each valid until the next."""
        window = self._windows[number]
        for start in range(0, len(window), self._rows):
            piece = window[start : start + self._rows]
            feed = Feed.of(piece, rows=range(len(piece)), length=start)
            yield self._workspace.call(feed, part).run(feed)
