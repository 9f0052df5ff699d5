"""A model cut into stages of one layer each, read without some of them.

Shapes: T tokens of a window, E hidden size, V vocabulary, K of the likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.evaluate import divergences, log_softmax
from skipstone.prune.search import Blocks
from skipstone.runtime.engine import Feed, Model, Part

__all__ = ["Loss", "Reader"]

Floats: TypeAlias = NDArray[np.float32]
TOP: Final = 512
MOST_LOGITS: Final = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What leaving out layers costs on `num_tokens` tokens. `kl` is KL(all layers || those left) in nats per token."""

    num_tokens: int
    kl: float
    perplexity_before: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class _Law:
    """The likeliest tokens [T, K] after each token and their log probabilities, of the whole model."""

    token_ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]

    def divergence(self, found: NDArray[np.float64], start: int) -> float:
        """Return the sum of KL(this || found) over rows from `start` on, all unlikely tokens taken as one."""
        rows = slice(start, start + len(found))
        expected, same = self.log_probs[rows], np.take_along_axis(found, self.token_ids[rows], axis=1)
        rest, other = (np.maximum(1 - np.exp(values).sum(axis=1), 1e-9) for values in (expected, same))
        inside = (np.exp(expected) * (expected - same)).sum(axis=1)
        return float((inside + rest * np.log(rest / other)).sum())


class Reader:
    """Reads windows [T] with some of the layers, which are stages of a bundle, one each."""

    def __init__(self, model: Model, windows: SequenceOf[SequenceOf[int]]) -> None:
        self._num_stages = len(model.manifest.stages)
        self._rows = max(1, MOST_LOGITS // model.manifest.dimensions.vocab_size)
        self._workspace = model.new_workspace(context_length=max(map(len, windows)))
        self._windows = [np.asarray(window) for window in windows]
        self._laws: dict[int, _Law] = {}

    def losses(self, choices: SequenceOf[Blocks], *, num_windows: int) -> list[float]:
        """Return the KL that each choice of layers to leave out costs on the first windows, of the likeliest tokens.

        What a choice begins with as the one before it is not computed again.
        """
        sums, walks = np.zeros(len(choices)), range(min(num_windows, len(self._windows)))
        for number in walks:
            law, walk = self._law(number), list[tuple[int, Floats]]()
            for place, left_out in enumerate(choices):
                for start, found in self._log_probs(number, left_out, walk):
                    sums[place] += law.divergence(found, start)
        return [float(value) for value in sums / sum(len(self._windows[number]) for number in walks)]

    def loss(self, left_out: Blocks) -> Loss:
        """Return what leaving out layers costs on all windows."""
        kl, nats, num_tokens = 0.0, np.zeros(2), 0
        for number, window in enumerate(self._windows):
            pairs = zip(self._log_probs(number, (), []), self._log_probs(number, left_out, []), strict=True)
            for (start, before), (_, after) in pairs:
                kl += float(divergences(before, after).sum())
                targets = window[start + 1 : start + 1 + len(before)]
                taken = np.arange(len(targets)), targets
                nats -= before[taken].sum(), after[taken].sum()
                num_tokens += len(targets)
        before, after = np.exp(nats / num_tokens)
        num_rows = sum(map(len, self._windows))
        return Loss(num_tokens=num_tokens, kl=kl / num_rows, perplexity_before=float(before), perplexity=float(after))

    def _law(self, number: int) -> _Law:
        if number not in self._laws:
            pieces = list[tuple[NDArray[np.int64], NDArray[np.float64]]]()
            for _, found in self._log_probs(number, (), []):
                top = np.argpartition(found, -min(TOP, found.shape[1]), axis=1)[:, -TOP:]
                pieces.append((top, np.take_along_axis(found, top, axis=1)))
            token_ids, log_probs = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            self._laws[number] = _Law(token_ids, log_probs)
        return self._laws[number]

    def _log_probs(
        self, number: int, left_out: Blocks, walk: list[tuple[int, Floats]]
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the first row and the log probabilities [N, V] of pieces of a window.

        `walk` has the stages that ran last, with what each gave [1, T, E].
        """
        window = self._windows[number]
        kept = [stage for stage in range(self._num_stages) if stage not in left_out]
        same = [stage == other for stage, (other, _) in zip(kept, walk, strict=False)]
        del walk[same.index(False) if False in same else len(same) :]
        for stage in kept[len(walk) :]:
            walk.append((stage, self._hidden(window, stage, walk[-1][1] if walk else None)))
        hidden = walk[-1][1]
        for start in range(0, len(window), self._rows):
            token_ids = window[start : start + self._rows]
            feed = Feed.of(token_ids, rows=range(len(token_ids)), hidden=hidden[:, start : start + self._rows])
            yield start, log_softmax(self._workspace.call(feed, Part(())).run(feed))

    def _hidden(self, window: NDArray[np.int64], stage: int, hidden: Floats | None) -> Floats:
        feed = Feed.of(window, hidden=hidden)
        call = self._workspace.call(feed, Part((stage,), head=False))
        call.run(feed)
        return call.hidden.copy()
