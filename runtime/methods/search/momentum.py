"""The loop that takes the likeliest token unless the text was there before: then a token that leads out of the loop.

The text is a walk through a graph whose nodes are tokens. A token that is new goes on; one that was there before is
made less likely by how long a part of the text it would repeat. Costs what greedy decoding costs, for it looks at the
logits and the text only. Approximate: repeats that are right, as in code or tables, are broken too.

Source: momentum decoding (Lan et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import decode_singly
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import ApproximateContext, Dial, Method, Opened
from skipstone.runtime.sampling import Sampler, first_in_order, relative_probabilities

__all__ = ["METHOD", "Momentum", "RepeatedNgrams", "open_momentum"]

WIDTH: Final = 5  # so many of the likeliest tokens may follow
RESISTANCE: Final = (0.0, 1.0, 3.0, 4.0, 5.0, 6.0)
"""f(r): what a token costs that would repeat r tokens of the text, itself the last; beyond it may not come."""


class RepeatedNgrams:
    """Which runs of up to `longest` tokens a text has had; it only grows, and each token is looked at once."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._seen: set[tuple[int, ...]] = set()
        self._num_read = 0

    def read(self, history: SequenceOf[int]) -> None:
        """Take in the tokens that came since."""
        for end in range(self._num_read + 1, len(history) + 1):
            self._seen.update(tuple(history[max(0, start) : end]) for start in range(end - self.longest, end))
        self._num_read = len(history)

    def length(self, history: SequenceOf[int], token_id: int) -> int:
        """Return how many last tokens of `history` and `token_id` stood there before, one behind the other."""
        length = 0
        while length < min(self.longest, len(history) + 1):
            run = (*history[len(history) - length :], token_id)
            if run not in self._seen:
                break
            length += 1
        return length


class Momentum:
    """Chooses the tokens of one text; `weight` is what a repeat of one token takes from a probability: the dial."""

    def __init__(self, sampler: Sampler, weight: float) -> None:
        self._sampler, self._weight = sampler, weight
        self._ngrams = RepeatedNgrams(len(RESISTANCE))

    def choose(self, logits: NDArray[np.float32], history: SequenceOf[int]) -> int:
        """Return the token that follows `history`, given the logits [V] there."""
        likeliest = self._sampler.choose(logits, history)
        self._ngrams.read(history)
        if not self._weight or not self._ngrams.length(history, likeliest):
            return likeliest
        row = self._sampler.processed(logits, history)
        candidates = first_in_order(-row, WIDTH)
        weights = relative_probabilities(row)
        chances = weights[candidates] / weights.sum(dtype=np.float64)
        resistances = [self.resistance(history, int(one)) for one in candidates]
        scores = chances - self._weight * np.array(resistances)
        best = int(scores.argmax())
        return int(candidates[best]) if scores[best] > -math.inf else self._way_out(row, history)

    def resistance(self, history: SequenceOf[int], token_id: int) -> float:
        """Return f(r) of a token."""
        length = self._ngrams.length(history, token_id)
        return RESISTANCE[length] if length < len(RESISTANCE) else math.inf

    def _way_out(self, row: NDArray[np.float32], history: SequenceOf[int]) -> int:
        """Return the likeliest of all tokens that may come; where none may, the likeliest."""
        ranked = first_in_order(-row, len(row))
        return next((int(one) for one in ranked if self.resistance(history, int(one)) < math.inf), int(ranked[0]))


def open_momentum(context: ApproximateContext) -> Opened:
    """Open a text; the dial is what a repeat of one token takes from a token's probability. 0 is greedy decoding."""
    num_layers = context.model.manifest.dimensions.num_layers
    sequence, chosen = context.sequence, Momentum(context.sampler, context.setting)
    steps = decode_singly(
        sequence,
        look=lambda: (sequence.extend(Draft.empty())[0], num_layers),
        choose=chosen.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    promise = f"momentum of {context.setting:g} against repeats: agreement not calibrated"
    return Opened(steps=steps, promise=promise if context.setting else "all tokens as the full model's")


METHOD = Method(
    name="momentum",
    writes=open_momentum,
    dial=Dial(
        unit="what a repeat of one token takes from its probability",
        least=0.0,
        most=1.0,
        plain=0.0,
        settings=(0.0, 0.05, 0.1, 0.2, 0.4),
    ),
    chance="refused",
    all_layers=True,
)
