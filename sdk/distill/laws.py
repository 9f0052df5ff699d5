"""What the dense model of a bundle says along texts, as its own graphs compute it, and how far others are from that.

Shapes: T tokens of a window, V vocabulary, K of the likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Feed, Model, Part
from skipstone.train import require_torch

__all__ = ["DenseLaw", "dense_law", "runtime_logits"]

_TOP: Final = 256


@dataclass(frozen=True, slots=True)
class DenseLaw:
    """The likeliest tokens [T, K] after each of a window, and their log probabilities; `rest` [T] is of all others."""

    token_ids: Any
    log_probs: Any
    rest: Any

    @classmethod
    def of(cls, logits: NDArray[np.float32]) -> DenseLaw:
        torch = require_torch()
        found = torch.log_softmax(torch.from_numpy(logits), dim=-1)
        top = found.topk(min(_TOP, found.shape[-1]), dim=-1)
        return cls(top.indices, top.values.clone(), _rest(top.values))

    def divergence(self, logits: Any) -> Any:
        """Return KL(this || the law of logits [T, V]) in nats per token, all unlikely tokens taken as one."""
        found = require_torch().log_softmax(logits, dim=-1).gather(-1, self.token_ids)
        inside = (self.log_probs.exp() * (self.log_probs - found)).sum(dim=-1)
        return (inside + self.rest.exp() * (self.rest - _rest(found))).mean()

    def divergence_of(self, logits: NDArray[np.float32]) -> float:
        """As `divergence`, of numbers."""
        return float(self.divergence(require_torch().from_numpy(logits)))


def _rest(log_probs: Any) -> Any:
    return (1 - log_probs.exp().sum(dim=-1)).clamp(min=1e-6).log()


def dense_law(model: Model, window: SequenceOf[int]) -> DenseLaw:
    """Return the law along a window. Cost: one call of the dense model."""
    return DenseLaw.of(runtime_logits(model, window, Part()))


def runtime_logits(model: Model, window: SequenceOf[int], part: Part) -> NDArray[np.float32]:
    """Return the logits [T, V] of a window, as the graphs of a part give them."""
    feed = Feed.of(window, rows=range(len(window)))
    logits = model.new_workspace(context_length=len(window) + 1).call(feed, part).run(feed)
    return np.array(logits)
