"""The loop that makes text, one model call a round. Methods differ only in what their drafter proposes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding.drafter import Accept, Choose, Drafter, Guard, Round, Step
from skipstone.runtime.engine import Draft, Sequence

__all__ = ["Look", "decode", "decode_singly", "step_of_one"]

Look: TypeAlias = Callable[[], tuple[NDArray[np.float32], int]]
"""Make a call -> the logits [V] of the next token, and how many layers made them."""


def decode(
    sequence: Sequence, *, drafter: Drafter, accept: Accept, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield the tokens that each model call accepted, until a stop token or `max_new_tokens`.

    Invariant: the last token of `sequence.token_ids` is pending: emitted, not yet in the cache. The prompt is fed
    without a draft. A drafter that fails is left out from then on, with one warning.
    Raises: CacheFull when prompt and answer do not fit.
    """
    budget = max_new_tokens
    sequence.require_room(budget)
    guarded = Guard(drafter, sequence)
    try:
        while budget > 0:
            step = _round(sequence, guarded, accept, budget, stop_ids)
            yield step
            if step.token_ids[-1] in stop_ids:
                return
            budget -= len(step.token_ids)
    finally:
        guarded.finish()


def _round(sequence: Sequence, drafter: Guard, accept: Accept, budget: int, stop_ids: Collection[int]) -> Step:
    """Draft, verify, keep what stands."""
    start = perf_counter()
    is_prompt = sequence.num_waiting != 1 or not sequence.num_cached
    draft = Draft.empty() if is_prompt else drafter.propose(budget - 1)
    drafted = perf_counter()
    logits = sequence.extend(draft)
    called = perf_counter()
    accepted = cut_after(accept(draft, logits), stop_ids)
    pending_id = sequence.token_ids[-1]
    rows = sequence.commit(accepted)
    kept = perf_counter()
    drafter.observe(Round(draft, pending_id, accepted, rows, logits, called - drafted, sequence.num_peeked))
    return Step(
        accepted,
        logits[: len(accepted)] if draft.is_chain else logits[rows[: len(accepted)]],
        num_drafted=len(draft),
        num_accepted=len(rows) - 1,
        drafter=draft.source if len(draft) else "plain",
        draft_s=drafted - start + perf_counter() - kept,
        model_s=called - drafted,
        accept_s=kept - called,
    )


def decode_singly(
    sequence: Sequence, *, look: Look, choose: Choose, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; each step says which depth made it.

    For methods that draft nothing: `look` makes the call and gives its logits. Raises: CacheFull when prompt and answer
    do not fit.
    """
    sequence.require_room(max_new_tokens)
    for _ in range(max_new_tokens):
        step = step_of_one(look, choose, sequence.token_ids)
        sequence.append(step.token_ids)
        yield step
        if step.token_ids[0] in stop_ids:
            return


def step_of_one(look: Look, choose: Choose, token_ids: SequenceOf[int]) -> Step:
    """Return the next token of a text, with the time of the call that `look` makes, and of the choice."""
    start = perf_counter()
    logits, depth = look()
    called = perf_counter()
    token_id = choose(logits, token_ids)
    return Step(
        [token_id],
        logits[None],
        num_drafted=0,
        num_accepted=0,
        drafter="plain",
        draft_s=0.0,
        model_s=called - start,
        accept_s=perf_counter() - called,
        depth=depth,
    )


def cut_after(token_ids: list[int], stop_ids: Collection[int]) -> list[int]:
    """Return the tokens up to and with the first stop token."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_ids:
            return token_ids[: index + 1]
    return token_ids
