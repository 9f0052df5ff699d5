"""The little model of a pair, which writes where the large one need not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.approximate.method import ApproximateContext
from skipstone.runtime.drafters.draft_model import drafter_of, follower_of
from skipstone.runtime.drafters.follower import Follower
from skipstone.runtime.drafters.registry import DrafterContext

__all__ = ["LittleModel", "as_drafter_context", "open_little"]


class LittleModel:
    """Reads a text on and says what follows; it reads nothing before it is asked.

    Its cache is that of a fresh prefill of all but the last token it was asked about.
    """

    def __init__(self, text: Follower, *, num_layers: int) -> None:
        self._text, self.num_layers = text, num_layers

    @property
    def capacity(self) -> int:
        """How many tokens it can see."""
        return self._text.sequence.capacity

    def logits(self, history: Sequence[int]) -> NDArray[np.float32] | None:
        """Return logits [V] for what follows a text, valid until the next call; None for one longer than it can see.

        Cost: one call, of all tokens that it has not seen.
        """
        if len(history) >= self.capacity:
            return None
        self._text.follow(history)
        row: NDArray[np.float32] = self._text.logits()[0]
        return row


def open_little(context: ApproximateContext, name: str) -> LittleModel:
    """Return the little model for one text of method `name`.

    Raises: ConfigError when there is none, or its tokenizer is another than that of the large one.
    """
    inner = as_drafter_context(context)
    model = drafter_of(inner, name, own_tokenizer=False)
    return LittleModel(follower_of(inner, model), num_layers=model.manifest.dimensions.num_layers)


def as_drafter_context(context: ApproximateContext) -> DrafterContext:
    """Return what a drafter may use of an approximate text: chains, verified by `match`."""
    model = context.model
    return DrafterContext(
        model=model, sampler=context.sampler, sequence=context.sequence, shared=model.shared, trees=False
    )
