"""Contrastive search: tokens that are likely, but not like what the text says already."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Sequence, open_branches
from skipstone.runtime.sampling import Sampler, top_logprobs
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest

__all__ = ["ALPHA", "NUM_CANDIDATES", "contrast"]

NUM_CANDIDATES: Final = 4
ALPHA: Final = 0.6
"""How much likeness counts; the probability counts 1 - ALPHA. Both values are the paper's."""

Directions = NDArray[np.floating[Any]]


@dataclass(slots=True)
class _Draft:
    """A draft, the row of logits behind it, and the directions [N, F] of all that was said, the prompt with it."""

    token_ids: tuple[int, ...]
    logprob: float
    said: Directions
    row: int = 0

    def candidates(
        self, logits: NDArray[np.float32], prompt: list[int], sampler: Sampler, count: int
    ) -> list[tuple[_Draft, int, float]]:
        """Return the draft with each of the likeliest tokens and its log probability."""
        likely = top_logprobs(sampler.processed(logits[self.row], [*prompt, *self.token_ids]), count)
        return [(self, token_id, logprob) for token_id, logprob in likely]

    def grown(self, token_id: int, logprob: float, direction: Directions, row: int) -> _Draft:
        said = np.concatenate([self.said, direction[None]])
        return _Draft((*self.token_ids, token_id), self.logprob + logprob, said, row)


def contrast(
    sequence: Sequence, request: SuggestRequest, *, alpha: float = ALPHA, num_candidates: int = NUM_CANDIDATES
) -> Generator[None, None, list[Suggestion]]:
    """Begin with the best first tokens and continue each by contrastive search; one model step for each `next`.

    Of the likeliest tokens it takes that with the largest `(1 - alpha) p - alpha s`, where p is its probability and s
    its largest cosine to a token before. Every candidate is fed, so each draft takes `num_candidates` rows of a step.

    Source: Su et al., 2022, which compares the last hidden states. No cache keeps those, so the prompt would be read
    again: here the last layer's cached values are compared, which are a linear image of the states that enter it.
    Raises: ConfigError for a temperature, and for an alpha outside 0 to 1.
    """
    request.require_greedy("contrast")
    if not 0 <= alpha <= 1 or num_candidates < 1:
        raise ConfigError(f"alpha must be 0 to 1 and candidates at least 1, got {alpha:g} and {num_candidates}")
    prompt, kept, ended = list(sequence.token_ids), request.num_drafts, list[_Draft]()
    sampler, most = request.sampler(0, num_prompt_tokens=len(prompt)), max(1, kept) * num_candidates
    with open_branches(sequence, most=most, steps=request.max_new_tokens) as branches:
        yield
        logits, drafts = branches.logits, [_Draft((), 0.0, _unit(sequence.cache.values(slice(len(prompt)))))]
        while drafts:
            count = max(num_candidates, kept)
            candidates = [one for draft in drafts for one in draft.candidates(logits, prompt, sampler, count)]
            branches.reorder([draft.row for draft, _, _ in candidates])
            logits = branches.step([token_id for _, token_id, _ in candidates])
            yield
            drafts, kept = _chosen(drafts, candidates, _unit(branches.last_values()), alpha, kept), 1
            ended += [draft for draft in drafts if request.ends(draft.token_ids)]
            drafts = [draft for draft in drafts if not request.ends(draft.token_ids)]
    return request.suggestions(prompt, ((draft.token_ids, draft.logprob / len(draft.token_ids)) for draft in ended))


def _chosen(
    drafts: list[_Draft], candidates: list[tuple[_Draft, int, float]], directions: Directions, alpha: float, kept: int
) -> list[_Draft]:
    """Return the `kept` best candidates of each draft; `directions` [candidates, F] are those of their tokens."""
    chosen = []
    for draft in drafts:
        rows = np.array([row for row, (parent, _, _) in enumerate(candidates) if parent is draft])
        chances = np.exp([candidates[row][2] for row in rows])
        ranks = (1 - alpha) * chances - alpha * (directions[rows] @ draft.said.T).max(axis=1)
        for row in rows[np.argsort(-ranks, kind="stable")[:kept]]:
            _, token_id, logprob = candidates[row]
            chosen.append(draft.grown(token_id, logprob, directions[row], int(row)))
    return chosen


def _unit(values: Directions) -> Directions:
    """Return rows of length 1, zeros where all is zero."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Directions = values / np.maximum(lengths, 1e-12)
    return unit
