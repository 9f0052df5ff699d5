"""Logits to log probabilities, and how far two laws lie apart. Shapes: N rows, V vocabulary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["divergences", "log_softmax"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return natural-log probabilities of each row, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def divergences(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(expected || found) [N] in nats of log probabilities [N, V]."""
    return np.asarray((np.exp(expected) * (expected - found)).sum(axis=1))
