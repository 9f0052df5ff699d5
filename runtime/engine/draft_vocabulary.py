"""The tokens that a head for drafts gives logits for: the first of the vocabulary, and those the text has beyond them.

Shapes: K first tokens, P others, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Binding, Device

__all__ = ["MOST_EXTRA", "REFRESH_EVERY", "DraftVocabulary"]

MOST_EXTRA: Final = 256
# Tokens that a text grows by before it is looked at again.
REFRESH_EVERY: Final = 64


class DraftVocabulary:
    """The logits of a draft head over the whole vocabulary, in one buffer: -inf for tokens that the head leaves out.

    Source: the frequent tokens of FR-Spec (Zhao et al., 2025), and those of the prompt. Lossless where guesses are
    verified: a token that is left out is never guessed, and has the chance 0 in the law of the guesses. `extra_ids` are
    the tokens beyond the first, [P], the most recent first.
    """

    def __init__(self, device: Device, *, num_first: int, vocab_size: int) -> None:
        self._device, self._num_first = device, num_first
        self._logits = device.allocate((1, vocab_size), np.float32)
        self._logits.write(-np.inf)
        self._first = self._logits.view(np.s_[:, :num_first])
        self._text: Sequence[int] | None = None
        self._length = 0  # of the text when it was last looked at
        self._take(np.zeros(0, np.int64))

    def follow(self, text: Sequence[int]) -> None:
        """Know the last `MOST_EXTRA` different tokens beyond the first of a text, which is always the same object.

        Looks when the text is another, or shorter than it was, and then every `REFRESH_EVERY` tokens.
        """
        if text is self._text and 0 <= len(text) - self._length < REFRESH_EVERY:
            return
        self._text, self._length = text, len(text)
        recent = np.asarray(text, np.int64)[::-1]
        recent = recent[recent >= self._num_first]
        places = np.sort(np.unique(recent, return_index=True)[1])
        self._take(recent[places[:MOST_EXTRA]])

    def _take(self, extra_ids: NDArray[np.int64]) -> None:
        self._logits.write(-np.inf, np.s_[:, self._num_first :])
        self.extra_ids = extra_ids
        self._fed = self._device.allocate(extra_ids.shape, np.int64)
        self._fed.write(extra_ids)
        self._extra_logits = self._device.allocate((1, len(extra_ids)), np.float32)

    def bind(self, binding: Binding) -> None:
        """Let the next run of a draft head, for one row, read the ids and write here."""
        binding.read_from("extra_ids", self._fed)
        binding.write_to("logits", self._first)
        binding.write_to("extra_logits", self._extra_logits)

    def logits(self) -> NDArray[np.float32]:
        """Return what the last run gave as logits [1, V], valid until the next."""
        self._logits.write(self._extra_logits.read()[0], (0, self.extra_ids))
        return self._logits.read()
