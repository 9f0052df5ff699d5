"""From a draft model's logits to guesses: the likeliest ones, or some drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.sampling.noise import draft_seed, gumbel
from skipstone.runtime.sampling.sampler import Sampler

__all__ = ["Drawn", "Likeliest", "Picker", "Picks", "Rule", "picker_for"]

Rule = Literal["match", "rejection", "k-seq"]


@dataclass(frozen=True, slots=True)
class Picks:
    """Different guesses for one place, best or first drawn first, with falling confidences, 0..1.

    `law` [V] is the distribution that they were drawn from, None when they were not drawn.
    """

    token_ids: list[int]
    confidences: list[float]
    law: NDArray[np.float64] | None = None


class Picker(Protocol):
    """Guesses tokens of one text from logits."""

    def start(self, position: int) -> None:
        """Begin a round, in a text of so many tokens."""
        ...

    def pick(self, logits: NDArray[np.float32], history: Sequence[int], num: int) -> Picks:
        """Return at most `num` guesses, at least one, for the token after `history`, given logits [V]."""
        ...


class Likeliest:
    """Takes the tokens that the target most likely chooses: the drafter's logits, with the noise of the position.

    The first is what `Sampler.choose` gives. Confidence is the softmax of what is compared, so that a flat row in which
    one token got much noise counts as sure: the target's token gets the same noise.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def start(self, position: int) -> None:
        """Nothing changes from round to round."""

    def pick(self, logits: NDArray[np.float32], history: Sequence[int], num: int) -> Picks:
        scores = self._sampler.scores(logits, history)
        token_ids = [int(scores.argmax())]
        weights = np.exp(scores - scores[token_ids[0]])
        share = 1.0 / float(weights.sum())
        confidences = [share]
        while len(token_ids) < num:
            weights[token_ids[-1]] = 0.0
            token_id = int(weights.argmax())
            if weights[token_id] == 0.0:
                break
            token_ids.append(token_id)
            confidences.append(float(weights[token_id]) * share)
        return Picks(token_ids, confidences)


class Drawn:
    """Draws tokens from the drafter's law, one after the other without replacement, with noise of its own.

    The confidence of a guess is the largest probability among the tokens left when it was drawn. It does not know the
    draw: so who leaves out guesses by confidence keeps the law of those that stay.

    Source: Gumbel-top-k (Kool et al., 2019).
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._seed = self._num_draws = 0

    def start(self, position: int) -> None:
        self._seed, self._num_draws = draft_seed(self._sampler.seed, position), 0

    def pick(self, logits: NDArray[np.float32], history: Sequence[int], num: int) -> Picks:
        law = self._sampler.law(logits, history)
        ids = np.flatnonzero(law)
        scores = np.log(law[ids]) + gumbel(self._seed, self._num_draws, ids)
        self._num_draws += 1
        left = law[ids]
        token_ids: list[int] = []
        confidences: list[float] = []
        while len(token_ids) < min(num, len(ids)):
            place = int(scores.argmax())
            token_ids.append(int(ids[place]))
            confidences.append(float(left.max()))
            scores[place], left[place] = -np.inf, 0.0
        return Picks(token_ids, confidences, law)


def picker_for(sampler: Sampler, rule: Rule) -> Picker:
    """Return what guesses for a rule; a greedy text leaves nothing to chance whatever the rule."""
    return Likeliest(sampler) if rule == "match" or sampler.greedy else Drawn(sampler)
