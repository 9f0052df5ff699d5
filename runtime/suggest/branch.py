"""Branches: the k best first tokens, each continued as if it stood alone."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Branches, Sequence, open_branches
from skipstone.runtime.sampling import Sampler, first_in_order, logprob_of
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest

__all__ = ["branch"]


@dataclass(slots=True)
class _Branch:
    """A draft that grows, by a sampler of its own."""

    sampler: Sampler
    token_ids: list[int]
    logprob: float

    def grow(self, logits: NDArray[np.float32], prompt: list[int]) -> None:
        token_id = self.sampler.choose(logits, [*prompt, *self.token_ids])
        self.token_ids.append(token_id)
        self.logprob += logprob_of(logits, token_id)


def branch(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
    """Continue the k best first tokens, each by the model's own choice; one model step for each `next`.

    Greedy by default. With a temperature the k first tokens are drawn without repeats, and draft i goes on by seed
    `seed` + i: the first is the text that the seed gives alone.
    """
    prompt = list(sequence.token_ids)
    with open_branches(sequence, most=request.num_drafts, steps=request.max_new_tokens - 1) as branches:
        yield
        drafts = _begin(branches.logits[0], prompt, request)
        branches.reorder([0] * len(drafts))
        growing = drafts
        while growing := _still_growing(branches, growing, request):
            logits = branches.step([draft.token_ids[-1] for draft in growing])
            for draft, row in zip(growing, logits, strict=True):
                draft.grow(row, prompt)
            yield
    return request.suggestions(prompt, ((draft.token_ids, draft.logprob / len(draft.token_ids)) for draft in drafts))


def _begin(logits: NDArray[np.float32], prompt: list[int], request: SuggestRequest) -> list[_Branch]:
    """Return drafts of one token each, the best by the first draft's sampler."""
    samplers = [request.sampler(number, num_prompt_tokens=len(prompt)) for number in range(request.num_drafts)]
    first_ids = first_in_order(-samplers[0].scores(logits, prompt), request.num_drafts)
    return [
        _Branch(sampler, [int(token_id)], logprob_of(logits, int(token_id)))
        for sampler, token_id in zip(samplers, first_ids, strict=False)
    ]


def _still_growing(branches: Branches, drafts: list[_Branch], request: SuggestRequest) -> list[_Branch]:
    """Return the drafts that have not ended, and let the branches be theirs only."""
    places = [place for place, draft in enumerate(drafts) if not request.ends(draft.token_ids)]
    if 0 < len(places) < len(drafts):
        branches.reorder(places)
    return [drafts[place] for place in places]
