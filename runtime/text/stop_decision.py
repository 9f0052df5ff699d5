"""When a completion is not worth going on with: as soon as the model would hardly bet on all of it.

Source: SEC (Sun et al., 2024) for the decision to stop; a product of probabilities stands for its trained controller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = ["StopDecision"]


class StopDecision:
    """Ends a text before the first token at which the model's highest probabilities so far multiply to too little.

    The product is the chance that the model gives its own greedy tokens, all of them: how likely the completion is what
    was meant. It falls with every token. Invariant: it is at least `below`, until the text has ended.
    """

    def __init__(self, below: float) -> None:
        """`below` 0 never ends a text. Raises: ConfigError for what is no probability."""
        if not 0 <= below <= 1:
            raise ConfigError(f"stop_below must be between 0 and 1, got {below:g}; 0 is off")
        self._below, self._chance = below, 1.0

    @property
    def promise(self) -> str | None:
        """What it does to a text, in words; None when it is off."""
        return f"ends where the chance of the whole text falls below {self._below:g}" if self._below else None

    def push(self, logits: NDArray[np.float32]) -> int:
        """Return how many of the next N tokens still belong to the text, by the logits [N, V] that made each."""
        if not self._below:
            return len(logits)
        for place, row in enumerate(logits):
            shifted = row.astype(np.float64) - row.max()
            self._chance /= np.exp(shifted).sum()  # the highest probability is exp(0) over this
            if self._chance < self._below:
                return place
        return len(logits)
