"""The loop that makes text, one model call a round. Methods differ only in what their drafter proposes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.draft import Draft, Drafter
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.sequence import Sequence

__all__ = ["Accept", "Step", "decode", "match"]

Accept = Callable[[Draft, NDArray[np.float32]], list[int]]
"""(draft, logits [1 + N, V]) -> the tokens to emit: a prefix of the draft and one token of the model's own."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one model call gave. `logits` [len(token_ids), V] are valid until the next step."""

    token_ids: list[int]
    logits: NDArray[np.float32]
    num_drafted: int
    drafter: str


def decode(
    sequence: Sequence, *, drafter: Drafter, accept: Accept, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield the tokens that each model call accepted, until a stop token or `max_new_tokens`.

    Invariant: the last token of `sequence.token_ids` is pending: emitted, not yet in the cache.
    Raises: CacheFull when prompt and answer do not fit; ConfigError for a drafter that guesses more than it may.
    """
    budget = max_new_tokens
    sequence.require_room(budget)
    while budget > 0:
        draft = drafter.propose(sequence.token_ids, limit=budget - 1)
        if len(draft) >= budget:
            raise ConfigError(f"drafter {draft.source} proposed {len(draft)} tokens, {budget - 1} were asked for")
        logits = sequence.extend(draft)
        accepted = cut_after(accept(draft, logits), stop_ids)
        sequence.commit(accepted)
        yield Step(accepted, logits, num_drafted=len(draft), drafter=draft.source)
        if accepted[-1] in stop_ids:
            return
        budget -= len(accepted)


def match(sampler: Sampler, history: SequenceOf[int]) -> Accept:
    """Return the rule that keeps a guess while it equals the token that plain decoding would choose there.

    `history` is the live list of the sequence's tokens. One choice per position, its noise keyed by the position:
    the text is that of plain decoding with every drafter and with none.
    """

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        accepted: list[int] = []
        for row, guess in zip(logits, (*draft.token_ids, None), strict=True):
            token_id = sampler.choose(row, [*history, *accepted] if accepted else history)
            accepted.append(token_id)
            if token_id != guess:
                break
        return accepted

    return accept


def cut_after(token_ids: list[int], stop_ids: Collection[int]) -> list[int]:
    """Return the tokens up to and with the first stop token."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_ids:
            return token_ids[: index + 1]
    return token_ids
