"""From a row of logits to a token: the same token for the same text and seed, whoever asks and however often."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.runtime.sampling.noise import gumbel
from skipstone.runtime.sampling.options import SamplingOptions
from skipstone.runtime.sampling.processor import LogitProcessor

__all__ = ["Sampler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Chooses the token after a text: runs the processors in their order, then takes the best or draws.

    A draw is the argmax of logits plus noise that depends on seed, position and token only. So a text does not depend
    on how many rows were judged before or again, and drafting gives the text of plain decoding.
    """

    processors: tuple[LogitProcessor, ...] = ()
    seed: int = 0
    greedy: bool = False

    @classmethod
    def from_options(cls, options: SamplingOptions, *, stop_ids: Collection[int], num_prompt_tokens: int) -> Sampler:
        """Return the sampler of one text, whose prompt has `num_prompt_tokens` tokens. No seed counts as 0."""
        processors = options.steps(stop_ids=stop_ids, num_prompt_tokens=num_prompt_tokens)
        return cls(processors=processors, seed=options.seed or 0, greedy=options.greedy)

    def choose(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """Return the token that follows `history`, given the logits [V] there, which stay as they are.

        Of equal tokens the lower id wins. Raises: ConfigError when every token is banned, SkipstoneError when logits
        are not numbers.
        """
        if self.greedy:
            return _likeliest(self.processed(logits, history))
        return int(self.scores(logits, history).argmax())

    def scores(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.floating[Any]]:
        """Return what `choose` takes the largest of, [V]: the processed row, with the position's noise unless greedy.

        Raises as `choose` does.
        """
        row = self.processed(logits, history)
        _likeliest(row)
        if self.greedy:
            return row
        ids = np.flatnonzero(row > -np.inf)
        scores = np.full(len(row), -np.inf)
        scores[ids] = row[ids] + gumbel(self.seed, len(history), ids)
        return scores

    def law(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float64]:
        """Return the distribution [V] that `choose` draws from: of a greedy sampler all mass on its choice.

        Raises as `choose` does.
        """
        row = self.processed(logits, history)
        likeliest = _likeliest(row)
        if self.greedy:
            certain = np.zeros(len(row))
            certain[likeliest] = 1.0
            return certain
        weights = np.exp(row.astype(np.float64) - row[likeliest])
        law: NDArray[np.float64] = weights / weights.sum()
        return law

    def processed(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        """Return the row [V] after all processors, -inf where a token may not be chosen; without any, the row itself.

        Raises as `choose` does, but only for what would reach a processor.
        """
        if not self.processors:
            return logits
        row = np.array(logits, dtype=np.float32)
        for processor in self.processors:
            _likeliest(row)
            row = processor(row, history)
        return row


def _likeliest(row: NDArray[np.float32]) -> int:
    """Return the argmax of a row [V] of values that are finite or -inf, not all -inf. Raises as `choose` does."""
    token_id = int(row.argmax())
    largest = row[token_id]
    if largest == -np.inf:
        raise ConfigError(
            "every token is banned at this position; loosen banned_ids, min_new_tokens, no_repeat_ngram or the grammar"
        )
    # argmax stops at nan, so one look finds any.
    if not np.isfinite(largest):
        raise SkipstoneError(
            f"the logits hold {largest} for token {token_id}, where finite numbers were wanted; "
            "verify or export the bundle again, or choose another device"
        )
    return token_id
