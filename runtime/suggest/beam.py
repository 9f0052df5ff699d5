"""Beam search: the drafts with the highest mean log probability that a search of some width finds."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Sequence, open_branches
from skipstone.runtime.sampling import top_logprobs
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest

__all__ = ["Beam", "beam", "expand", "is_settled"]


@dataclass(frozen=True, slots=True)
class Beam:
    """A draft that grew from the beam `parent` of the step before, and the sum of its log probabilities.

    `rank` decides what is kept.
    """

    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    parent: int = 0
    rank: float = 0.0

    @property
    def score(self) -> float:
        """The mean log probability of its tokens."""
        return self.logprob / len(self.token_ids)


def beam(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
    """Search with as many beams as drafts; one model step for each `next`.

    A beam that meets a stop token is kept, and others take its place. The search ends early when no beam can still
    beat those. Raises: ConfigError for a temperature.
    """
    request.require_greedy("beam")
    prompt, width = list(sequence.token_ids), request.num_drafts
    with open_branches(sequence, most=width, steps=request.max_new_tokens - 1) as branches:
        yield
        logits, beams, ended = branches.logits, [Beam()], list[Beam]()
        while beams:
            grown = expand(beams, logits, prompt, request, width=width)
            ended += [beam for beam in grown if request.ends(beam.token_ids)]
            beams = [beam for beam in grown if not request.ends(beam.token_ids)]
            if is_settled(beams, ended, request, width=width):
                break
            branches.reorder([beam.parent for beam in beams])
            logits = branches.step([beam.token_ids[-1] for beam in beams])
            yield
    return request.suggestions(prompt, ((beam.token_ids, beam.score) for beam in ended))


def expand(
    beams: SequenceOf[Beam],
    logits: NDArray[np.float32],
    prompt: SequenceOf[int],
    request: SuggestRequest,
    *,
    width: int,
    penalties: Mapping[int, float] | None = None,
    taken: Collection[tuple[int, ...]] = (),
) -> list[Beam]:
    """Return beams one token longer, by logits [len(beams), V], the best first.

    They are the best until `width` of them have no stop token, with those that have among them. `penalties` are taken
    from the rank of tokens, for this step only. Drafts of `taken`, which have ended, are left out.
    """
    penalties, sampler = penalties or {}, request.sampler(0, num_prompt_tokens=len(prompt))
    num_likely = width + len(request.stop_ids) + len(penalties) + len(taken)
    candidates = []
    for parent, (beam, row) in enumerate(zip(beams, logits, strict=True)):
        processed = sampler.processed(row, [*prompt, *beam.token_ids])
        for token_id, logprob in top_logprobs(processed, num_likely):
            total, token_ids = beam.logprob + logprob, (*beam.token_ids, token_id)
            candidates.append(Beam(token_ids, total, parent, total - penalties.get(token_id, 0.0)))
    grown, num_open = list[Beam](), 0
    for candidate in sorted(candidates, key=lambda beam: -beam.rank):
        if num_open < width and candidate.token_ids not in taken:
            grown.append(candidate)
            num_open += candidate.token_ids[-1] not in request.stop_ids
    return grown


def is_settled(beams: SequenceOf[Beam], ended: SequenceOf[Beam], request: SuggestRequest, *, width: int) -> bool:
    """Whether no beam can still become better than the best `width` that have ended: certain tokens only would do."""
    if not beams:
        return True
    if len(ended) < width:
        return False
    worst = sorted((beam.score for beam in ended), reverse=True)[width - 1]
    return worst >= max(beam.logprob for beam in beams) / request.max_new_tokens
