"""What the model itself thinks of tokens: probabilities of an unprocessed row."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.sampling.order import first_in_order
from skipstone.runtime.sampling.processor import require

__all__ = ["logprob_of", "relative_probabilities", "top_logprobs"]


def relative_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities [V] as multiples of the largest one. Sum them in float64."""
    weights: NDArray[np.float32] = np.exp(logits - logits.max())
    return weights


def logprob_of(logits: NDArray[np.float32], token_id: int) -> float:
    """Return the natural logarithm of a token's probability, for a row [V]."""
    return float(logits[token_id]) - _log_total(logits)


def top_logprobs(logits: NDArray[np.float32], num: int) -> tuple[tuple[int, float], ...]:
    """Return the `num` most likely tokens of a row [V], each with the natural logarithm of its probability.

    The best comes first, of equal ones the lower id; tokens with -inf are left out.
    """
    require(num >= 0, "the number of top logprobs", num, "at least 0")
    log_total = _log_total(logits)
    return tuple((int(token_id), float(logits[token_id]) - log_total) for token_id in first_in_order(-logits, num))


def _log_total(logits: NDArray[np.float32]) -> float:
    return float(logits.max()) + math.log(relative_probabilities(logits).sum(dtype=np.float64))
