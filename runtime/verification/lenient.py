"""The rule that keeps a guess while the model finds it likely enough. Approximate: the text may differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.draft import Draft
from skipstone.runtime.sampling import Sampler, logprob_of
from skipstone.runtime.verification.match import Accept

__all__ = ["forgive"]


def forgive(sampler: Sampler, history: Sequence[int], *, dial: float) -> Accept:
    """Return the rule for chains that keeps guesses up to the first that surprises the model by more than the dial.

    Surprise is -log p in nats, of the raw logits. A guess that is the model's choice always stands; the first that is
    neither is replaced by that choice. With a dial of 0 this is `match`. What may not be chosen at all, the sampler of
    the drafter leaves out: it has the same processors.
    Source: the rollback policy of Big Little Decoder (Kim et al., 2023).
    """

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        text, start = list(history), len(history)
        for row, guess in zip(logits, draft.token_ids, strict=False):
            choice = sampler.choose(row, text)
            stands = guess == choice or -logprob_of(row, guess) <= dial
            text.append(guess if stands else choice)
            if not stands:
                return text[start:]
        text.append(sampler.choose(logits[len(draft)], text))
        return text[start:]

    return accept
