"""The rule that keeps a guess while it is what plain decoding would have written: any drafter, the same text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding.drafter import Accept
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler

__all__ = ["match"]


def match(sampler: Sampler, history: Sequence[int]) -> Accept:
    """Return the rule that descends to the guess which equals the token that plain decoding would choose there.

    `history` is the live list of the sequence's tokens. One choice per position, its noise keyed by the position:
    the text is that of plain decoding with every drafter and with none.
    """

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        text, start = list(history), len(history)
        row: int | None = 0
        while row is not None:
            token_id = sampler.choose(logits[row], text)
            text.append(token_id)
            row = draft.child(row, token_id)
        return text[start:]

    return accept
