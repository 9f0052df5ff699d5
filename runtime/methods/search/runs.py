"""The loop of methods that try several texts and keep one: a step gives the tokens of what was kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Sequence, branches_behind
from skipstone.runtime.sampling import logprob_of

__all__ = ["Run", "Write", "decode_in_runs", "grow"]


@dataclass(slots=True)
class Run:
    """Tokens that go on from a text, each with the logits [V] that it was chosen from; `num_calls` made them."""

    token_ids: list[int]
    logits: list[NDArray[np.float32]]
    num_calls: int = 0

    def add(self, token_id: int, logits: NDArray[np.float32]) -> None:
        """Go on by a token; keeps a copy of its logits."""
        self.token_ids.append(token_id)
        self.logits.append(logits.copy())

    def first(self, count: int) -> Run:
        """Return the first `count` tokens, which took the same calls."""
        return Run(self.token_ids[:count], self.logits[:count], self.num_calls)

    @property
    def mean_logprob(self) -> float:
        """The mean natural-log probability of the tokens by the model's own law: minus the log of the perplexity."""
        return float(np.mean([logprob_of(row, one) for row, one in zip(self.logits, self.token_ids, strict=True)]))


def grow(
    runs: SequenceOf[Run],
    *,
    sequence: Sequence,
    logits: NDArray[np.float32],
    choose: Callable[[Run, NDArray[np.float32]], int],
    has_ended: Callable[[Run], bool],
    steps: int,
) -> None:
    """Let runs of one token each go on behind a text, until each has ended, or by `steps` tokens.

    All that grow take one call together. `logits` [1, V] are what reading the text gave. Raises: CacheFull.
    """
    growing, num_calls = [run for run in runs if not has_ended(run)], 0
    with branches_behind(sequence, logits, most=len(runs), steps=steps) as branches:
        branches.reorder([0] * len(growing))
        while growing and num_calls < steps:
            rows = branches.step([run.token_ids[-1] for run in growing])
            num_calls += 1
            for run, row in zip(growing, rows, strict=True):
                run.add(choose(run, row), row)
            places = [place for place, run in enumerate(growing) if not has_ended(run)]
            branches.reorder(places)
            growing = [growing[place] for place in places]
    for run in runs:
        run.num_calls = num_calls


Write: TypeAlias = Callable[[NDArray[np.float32], SequenceOf[int]], Run]
"""(logits [1, V] behind the text, the text) -> the tokens that follow, at least one. The sequence has been read."""


def decode_in_runs(
    sequence: Sequence, *, write: Write, num_layers: int, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield the tokens that `write` gives, run by run, until a stop token or `max_new_tokens`.

    What a run added to the sequence's cache is forgotten; the next call feeds the tokens that were kept.
    Raises: CacheFull when prompt and answer do not fit.
    """
    sequence.require_room(max_new_tokens)
    budget = max_new_tokens
    while budget > 0:
        start = perf_counter()
        logits = sequence.extend(Draft.empty()).copy()
        run = write(logits, sequence.token_ids).first(budget)
        sequence.append(run.token_ids)
        yield Step(
            run.token_ids,
            np.stack(run.logits),
            num_drafted=0,
            num_accepted=0,
            drafter="plain",
            draft_s=0.0,
            model_s=perf_counter() - start,
            accept_s=0.0,
            depth=num_layers,
            num_calls=1 + run.num_calls,
        )
        if run.token_ids[-1] in stop_ids:
            return
        budget -= len(run.token_ids)
