"""How likely a given text is: logits after every token of it, many rows a call."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Draft, Model

__all__ = ["score"]

ROWS = 128


def score(model: Model, token_ids: SequenceOf[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (targets [N], logits [N, V]) that cover every token but the first; logits are valid until the next step.

    Known text is the perfect draft: every guess is accepted. Raises: CacheFull when the text exceeds the context.
    """
    sequence = model.new_sequence()
    sequence.require_room(len(token_ids))
    sequence.append(token_ids[:1])
    start = 1
    while start < len(token_ids):
        targets = token_ids[start : start + min(ROWS, 1 + sequence.draft_room)]
        yield np.asarray(targets), sequence.extend(Draft.chain(targets[:-1], source="text"))
        sequence.commit(targets)
        start += len(targets)
