"""What changed states before the final norm cost, beside those of the original model.

Shapes: S streams, W windows, T tokens of each, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph
from skipstone.evaluate import divergences, log_softmax
from skipstone.prune.reader import Loss

__all__ = ["StateLosses"]

Floats: TypeAlias = NDArray[np.float32]
_EVERY: Final = 4  # of so many rows one is judged in a search
_ROWS: Final = 64  # of logits at once


class StateLosses:
    """Judges states by the logits that a head makes of them; `original` [W, T, E] are those of the whole model."""

    def __init__(self, head: LayerGraph, original: Floats) -> None:
        self._head, self._original = head, original

    def losses(self, states: Floats, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return KL(original || changed) of streams [S, T, E] that read the windows with the numbers `places`."""
        found = np.zeros(len(states))
        for window in np.unique(places):
            expected = self._log_probs(self._original[window, ::_EVERY])
            for stream in np.flatnonzero(places == window):
                found[stream] = divergences(expected, self._log_probs(states[stream, ::_EVERY])).mean()
        return found

    def loss(self, states: Floats, token_ids: NDArray[np.int64]) -> Loss:
        """Return what changed states [W, T, E] of all windows cost, row by row."""
        kl, nats, num_tokens, num_rows = 0.0, np.zeros(2), 0, 0
        for window, targets in enumerate(token_ids):
            for start in range(0, len(targets), _ROWS):
                rows = slice(start, start + _ROWS)
                before, after = (self._log_probs(found[window, rows]) for found in (self._original, states))
                kl += float(divergences(before, after).sum())
                next_ids = targets[start + 1 : start + 1 + len(before)]
                taken = np.arange(len(next_ids)), next_ids
                nats -= before[taken].sum(), after[taken].sum()
                num_tokens, num_rows = num_tokens + len(next_ids), num_rows + len(before)
        earlier, later = np.exp(nats / num_tokens)
        return Loss(num_tokens=num_tokens, kl=kl / num_rows, perplexity_before=float(earlier), perplexity=float(later))

    def _log_probs(self, states: Floats) -> NDArray[np.float64]:
        return log_softmax(self._head.logits(states[None]))
