"""How sure an exit is of its next token, read from its logits, or from the hidden states around its last stage.

Source: CALM (Schuster et al., 2022). Each gives [N] between 0 and 1, higher where surer. Those of logits [N, V] cost a
head for every token that is asked; `saturation` costs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = [
    "CONFIDENCES",
    "SATURATION",
    "Confidence",
    "confidence_named",
    "entropy",
    "entropy_nats",
    "gap",
    "saturation",
    "top",
]

SATURATION = "saturation"

LOWEST = np.float32(-1e4)  # of which exp is 0

Confidence = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""What an exit shows of N tokens -> how sure it is: logits [N, V], or for `saturation` hidden states [N, 2, E]."""


def gap(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how much the likeliest token is more probable than the second; 1 where there is only one token."""
    weights = _weights(_shifted(logits))
    totals = weights.sum(axis=1, dtype=np.float64)
    weights[np.arange(len(weights)), weights.argmax(axis=1)] = 0
    return np.asarray((1.0 - weights.max(axis=1)) / totals)


def top(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability of the likeliest token."""
    return np.asarray(1.0 / _weights(_shifted(logits)).sum(axis=1, dtype=np.float64))


def entropy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return 1 minus the entropy as a share of the largest one that V tokens can have."""
    return np.asarray(np.clip(1.0 - entropy_nats(logits) / np.log(max(logits.shape[1], 2)), 0.0, 1.0))


def entropy_nats(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the entropy of each row [N, V], in nats, as exactly as the type of the logits allows."""
    shifted = _shifted(logits)
    weights = _weights(shifted)
    totals = weights.sum(axis=1, dtype=np.float64)
    return np.asarray(np.log(totals) - (weights * shifted).sum(axis=1, dtype=np.float64) / totals)


def saturation(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (1 + cos) / 2 of the hidden states [N, E] before and after the last stage: 1 where it turned nothing.

    States of zeros have no direction and give 1/2.
    """
    one, other = before.astype(np.float64), after.astype(np.float64)
    lengths = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    cosines = (one * other).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(np.clip((1.0 + cosines) / 2, 0.0, 1.0))


def _saturation_of(states: NDArray[np.float32]) -> NDArray[np.float64]:
    return saturation(states[:, 0], states[:, 1])


def _shifted(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits of which the largest of each row is 0, and none is so low that 0 times it is no number."""
    return np.asarray(np.maximum(logits - logits.max(axis=1, keepdims=True), LOWEST))


def _weights(shifted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of each row times what makes the largest 1."""
    return np.asarray(np.exp(shifted))


CONFIDENCES: Mapping[str, Confidence] = MappingProxyType({"gap": gap, "top": top, "entropy": entropy})
"""The measures of logits, by name."""


def confidence_named(name: str) -> Confidence:
    """Return the measure called `name`. Raises: ConfigError for an unknown one."""
    if name == SATURATION:
        return _saturation_of
    if name not in CONFIDENCES:
        raise ConfigError(f"confidence {name!r} is not known; known are {', '.join((*CONFIDENCES, SATURATION))}")
    return CONFIDENCES[name]
