"""Diverse beam search: drafts that are searched one after the other, each kept from the tokens of those before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Sequence, open_branches
from skipstone.runtime.suggest.beam import Beam, expand, is_settled
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest

__all__ = ["DIVERSITY", "diverse"]

DIVERSITY: Final = 0.5
"""What a token loses, in nats, for each group that has taken it at the same place."""


@dataclass(slots=True)
class _Group:
    """The beams of one draft, and those that have ended."""

    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    ended: list[Beam] = field(default_factory=list)


def diverse(
    sequence: Sequence, request: SuggestRequest, *, diversity: float = DIVERSITY, width: int = 1
) -> Generator[None, None, list[Suggestion]]:
    """Search with a group of `width` beams for each draft; one model step for each `next`.

    Groups choose in turn, and a token loses `diversity` for each time that a group before has chosen it at this place.
    No two end as the same draft. Scores are without the loss. Source: Vijayakumar et al., 2018.
    Raises: ConfigError for a temperature, and for a diversity below 0.
    """
    request.require_greedy("diverse")
    if diversity < 0 or width < 1:
        raise ConfigError(f"diversity must be at least 0 and width at least 1, got {diversity:g} and {width}")
    prompt, groups = list(sequence.token_ids), [_Group() for _ in range(request.num_drafts)]
    with open_branches(sequence, most=width * len(groups), steps=request.max_new_tokens - 1) as branches:
        yield
        branches.reorder([0] * len(groups))
        logits = np.repeat(branches.logits, len(groups), axis=0)
        while parents := _grow(groups, logits, prompt, request, diversity=diversity, width=width):
            branches.reorder(parents)
            logits = branches.step([beam.token_ids[-1] for group in groups for beam in group.beams])
            yield
    drafts = [max(group.ended, key=lambda beam: beam.score) for group in groups if group.ended]
    return request.suggestions(prompt, ((draft.token_ids, draft.score) for draft in drafts))


def _grow(
    groups: list[_Group],
    logits: NDArray[np.float32],
    prompt: list[int],
    request: SuggestRequest,
    *,
    diversity: float,
    width: int,
) -> list[int]:
    """Let each group choose by its rows of logits; return the rows that the beams which go on grew from."""
    num_chosen, parents, start = Counter[int](), list[int](), 0
    for group in groups:
        grown = expand(
            group.beams,
            logits[start : start + len(group.beams)],
            prompt,
            request,
            width=width,
            penalties={token_id: diversity * number for token_id, number in num_chosen.items()},
            taken={beam.token_ids for other in groups for beam in other.ended},
        )
        num_chosen.update(beam.token_ids[-1] for beam in grown)
        num_rows, group.beams = len(group.beams), [beam for beam in grown if not request.ends(beam.token_ids)]
        group.ended += [beam for beam in grown if request.ends(beam.token_ids)]
        if is_settled(group.beams, group.ended, request, width=width):
            group.beams = []
        parents += [start + beam.parent for beam in group.beams]
        start += num_rows
    return parents
