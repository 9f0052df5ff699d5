"""Which tokens may be drawn at all: temperature sharpens or flattens, the rest remove the tail.

Removed tokens get -inf. Where tokens are equal, the lower id is the better one. Each rule keeps at least one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.sampling.logprobs import relative_probabilities
from skipstone.runtime.sampling.order import first_in_order, shortest_prefix
from skipstone.runtime.sampling.processor import require

__all__ = ["LocallyTypical", "MinP", "Temperature", "TopH", "TopK", "TopP"]


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divide the logits: below 1 the likely tokens gain, above 1 the unlikely ones."""

    temperature: float

    def __post_init__(self) -> None:
        # Outside of that float32 logits would overflow, or be all the same.
        holds = 1e-6 <= self.temperature <= 1e30
        require(holds, "temperature", self.temperature, "0 for greedy, or a number of at least 0.000001")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.temperature != 1.0:
            logits /= np.float32(self.temperature)
        return logits


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the k most likely tokens."""

    k: int

    def __post_init__(self) -> None:
        require(self.k >= 1, "top_k", self.k, "at least 1, or 0 for off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        return _only(logits, first_in_order(-logits, self.k))


@dataclass(frozen=True, slots=True)
class TopP:
    """Keep the fewest most likely tokens that together have at least the probability p.

    Source: nucleus sampling (Holtzman et al., 2020).
    """

    p: float

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "top_p", self.p, "above 0 and at most 1, which is off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        return _only(logits, shortest_prefix(-logits, relative_probabilities(logits), self.p))


@dataclass(frozen=True, slots=True)
class MinP:
    """Keep the tokens that are at least p times as likely as the most likely one.

    Source: min-p sampling (Nguyen et al., 2024).
    """

    p: float

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "min_p", self.p, "above 0 and at most 1, or 0 for off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        logits[logits < float(logits.max()) + math.log(self.p)] = -np.inf
        return logits


@dataclass(frozen=True, slots=True)
class LocallyTypical:
    """Keep the fewest tokens that together have at least the probability `mass`, the most typical first.

    The nearer a token's surprise -log p is to the entropy of the row, the more typical it is; so even the most likely
    token may go.

    Source: locally typical sampling (Meister et al., 2023).
    """

    mass: float

    def __post_init__(self) -> None:
        require(0 < self.mass <= 1, "typical", self.mass, "above 0 and at most 1, which is off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        weights = relative_probabilities(logits)
        log_total = float(logits.max()) + math.log(weights.sum(dtype=np.float64))
        surprise = log_total - logits.astype(np.float64)
        return _only(logits, shortest_prefix(np.abs(surprise - _entropy(weights)), weights, self.mass))


@dataclass(frozen=True, slots=True)
class TopH:
    """Keep as many of the most likely tokens as have, among themselves, at most `alpha` times the entropy of the row.

    At most `limit` tokens are kept. Source: top-H decoding (Potraghloo et al., 2025).
    """

    alpha: float = 0.4
    limit: int = 100

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, "top_h", self.alpha, "above 0 and at most 1")
        require(self.limit >= 1, "the limit of top_h", self.limit, "at least 1")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        weights = relative_probabilities(logits)
        best = first_in_order(-logits, self.limit)
        # Among the k best the entropy never falls as k grows, so the largest k is the number of those that fit.
        num_kept = np.count_nonzero(_prefix_entropies(weights[best]) <= self.alpha * _entropy(weights))
        return _only(logits, best[: max(1, num_kept)])


def _entropy(weights: NDArray[np.float32]) -> float:
    """Return the entropy in nats of the distribution that is proportional to the weights."""
    present = weights[weights > 0].astype(np.float64)
    total = float(present.sum())
    return math.log(total) - float((present * np.log(present)).sum()) / total


def _prefix_entropies(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the entropy in nats of the first, the first two, ... positive weights, which come in descending order."""
    present = weights[weights > 0].astype(np.float64)
    totals = np.cumsum(present)
    entropies: NDArray[np.float64] = np.log(totals) - np.cumsum(present * np.log(present)) / totals
    return entropies


def _only(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    kept = np.full_like(logits, -np.inf)
    kept[ids] = logits[ids]
    return kept
