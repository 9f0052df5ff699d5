"""Figures of one model's quality, collected token by token. Shapes: N rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.evaluate.log_probs import divergences

__all__ = ["ModelQuality", "Tally"]

WORST: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuality:
    """Quality of one model on `num_tokens` tokens. `kl` is KL(reference || model) in nats per token.

    `kl_worst` is its mean over the worst 1 % of tokens. None without a reference, and of the reference itself.
    """

    num_tokens: int
    perplexity: float
    kl: float | None = None
    kl_worst: float | None = None
    top1_agreement: float | None = None


@dataclass(slots=True)
class Tally:
    """Figures of one model, token by token."""

    nats: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    agrees: list[bool] = field(default_factory=list)

    def add(
        self,
        found: NDArray[np.float64],
        targets: Sequence[int] | NDArray[np.int64],
        expected: NDArray[np.float64] | None = None,
    ) -> None:
        """Add log probabilities [N, V] of rows that `targets` follow, beside those of a reference."""
        self.nats += (-np.take_along_axis(found, np.asarray(targets)[:, None], 1)[:, 0]).tolist()
        if expected is not None:
            self.kl += divergences(expected, found).tolist()
            self.agrees += (expected.argmax(axis=1) == found.argmax(axis=1)).tolist()

    def quality(self) -> ModelQuality:
        perplexity = float(np.exp(np.mean(self.nats)))
        if not self.kl:
            return ModelQuality(num_tokens=len(self.nats), perplexity=perplexity)
        worst = np.sort(self.kl)[-max(1, round(WORST * len(self.kl))) :]
        return ModelQuality(
            num_tokens=len(self.nats),
            perplexity=perplexity,
            kl=float(np.mean(self.kl)),
            kl_worst=float(worst.mean()),
            top1_agreement=float(np.mean(self.agrees)),
        )
