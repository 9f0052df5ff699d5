"""From which confidence a guess can be believed, told from pairs (confidence, was it right) by two Beta laws.

One law is that of the confidences of right guesses, one that of wrong ones. Where a new confidence lies says which of
the two it more likely comes from. Source: FREE (Bae et al., 2023), its adaptive threshold estimator.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from math import exp, lgamma
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = [
    "GRID",
    "LAST_SHARE",
    "LEAST_PAIRS",
    "WIDE_GRID",
    "Beta",
    "BetaMixture",
    "decayed",
    "fit_beta",
    "fit_mixture",
]

EDGE: Final = 1e-4  # confidences stay this far from 0 and 1, where densities may be infinite
LEAST_VARIANCE: Final = 1e-5
# Each pair counts a little for the other law too, as in the paper's code.
LEAK: Final = 1e-4
# So many right guesses, and as many wrong ones, tell a law.
LEAST_PAIRS: Final = 20
LAST_SHARE: Final = 0.9
"""What is left of a decayed threshold at last."""
GRID: Final = tuple(np.linspace(0.3, 0.9, 10).tolist())
"""The paper's thresholds."""
WIDE_GRID: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25),
    *GRID,
    *(0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999),
)
"""Those, and others on both sides, for chances that are near 0 or 1."""


@dataclass(frozen=True, slots=True)
class Beta:
    """A law of confidences between 0 and 1. Raises: ConfigError unless both numbers are positive."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ConfigError(f"a Beta law has two positive numbers, got {self.a} and {self.b}")

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def log_density(self, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the natural log of the density at each confidence."""
        x = _inside(confidences)
        norm = lgamma(self.a) + lgamma(self.b) - lgamma(self.a + self.b)
        return np.asarray((self.a - 1) * np.log(x) + (self.b - 1) * np.log1p(-x) - norm)


@dataclass(frozen=True, slots=True)
class BetaMixture:
    """The laws of the confidences of right and of wrong guesses, and the share, 0..1, of right ones."""

    right: Beta
    wrong: Beta
    share: float = 0.5

    def chances(self, confidences: NDArray[np.float64], *, by_share: bool = False) -> NDArray[np.float64]:
        """Return the chance that a guess of each confidence is right.

        `by_share`: among guesses of which so many are right as were; else among as many right ones as wrong, which is
        the paper's f1 / (f1 + f0).
        """
        share = min(max(self.share, EDGE), 1 - EDGE) if by_share else 0.5
        for_wrong = self.wrong.log_density(confidences) - self.right.log_density(confidences)
        for_wrong += np.log1p(-share) - np.log(share)
        return np.asarray(np.exp(-np.logaddexp(0.0, for_wrong)))

    def threshold(self, chance: float, *, grid: SequenceOf[float] = GRID, by_share: bool = False) -> float | None:
        """Return the first point of `grid`, ascending, from which on all have more than this chance; None: no point.

        The paper takes the point above which so many points have it, the same where the chance rises. Where it falls
        again, as it may when wrong guesses are as confident as right ones, what lies below the fall is not believed.
        """
        points = np.asarray(grid, dtype=np.float64)
        fails = np.flatnonzero(self.chances(points, by_share=by_share) <= chance)
        first = int(fails[-1]) + 1 if len(fails) else 0
        return float(points[first]) if first < len(points) else None


def fit_beta(confidences: NDArray[np.float64], weights: NDArray[np.float64]) -> Beta:
    """Return the law with the mean and variance of weighted confidences: the method of moments.

    Raises: ConfigError when the weights add up to nothing.
    """
    total = float(weights.sum())
    if not total > 0:
        raise ConfigError("a law of confidences wants some weight on some of them, got none")
    x = _inside(confidences)
    mean = float((weights * x).sum()) / total
    variance = max(float((weights * (x - mean) ** 2).sum()) / total, LEAST_VARIANCE)
    a = mean * (mean * (1 - mean) / variance - 1)
    return Beta(a, a * (1 - mean) / mean)


def fit_mixture(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> BetaMixture | None:
    """Return the laws that pairs [N] tell; None with fewer than 20 right guesses or 20 wrong ones."""
    num_right = int(right.sum())
    if min(num_right, len(right) - num_right) < LEAST_PAIRS:
        return None
    weights = np.where(right, 1 - LEAK, LEAK)
    return BetaMixture(fit_beta(confidences, weights), fit_beta(confidences, 1 - weights), num_right / len(right))


def decayed(threshold: float, place: int, num_places: int, *, decay: float = 4.0) -> float:
    """Return the threshold at a place of a text: all of it at first, nine tenths in the end. Early errors spread more.

    Source: CALM (Schuster et al., 2022), section 3, as the code of FREE has it.
    """
    return min(max(threshold * (LAST_SHARE + (1 - LAST_SHARE) * exp(-decay * place / num_places)), 0.0), 1.0)


def _inside(confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(confidences, EDGE, 1 - EDGE), dtype=np.float64)
