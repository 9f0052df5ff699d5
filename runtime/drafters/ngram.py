"""Prompt lookup: what followed the last tokens before follows them again."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.runtime.draft import Draft
from skipstone.runtime.drafters.drafter import Drafter
from skipstone.runtime.drafters.registry import DrafterContext
from skipstone.runtime.drafters.suffix_index import LONGEST_MATCH, SuffixIndex, index_capacity, overlapping

__all__ = ["NgramDrafter", "open_ngram"]


MOST = 64
# How often copied tokens were right in replays of code and prose, by the length of the match, from these lengths on.
CHANCES_FROM = (1, 2, 3, 4, 8, 16, 32)
CHANCES = (0.22, 0.4, 0.5, 0.6, 0.78, 0.9, 0.95)


class NgramDrafter(Drafter):
    """Copies what stands behind the newest of the longest matches in prompt and answer.

    By itself it copies as many tokens as matched, so that weak evidence costs little; a planner that cuts drafts asks
    for more. Levels: the length of the match, which grows while copying.

    Source: prompt lookup decoding (Saxena, 2023), with the newest match instead of the first. Cost: constant a token.
    """

    name = "ngram"

    def __init__(self, *, capacity: int) -> None:
        self._index = SuffixIndex(capacity, max_places=1)
        self._num_seen = 0

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self._index.add(history[self._num_seen :])
        self._num_seen = len(history)
        found = self._index.continuation(list(history[-LONGEST_MATCH:]))
        if found is None:
            return Draft.empty()
        wanted = min(limit, MOST if min_chance else found.match)
        copied = overlapping(self._index.following(found.position, wanted), wanted)
        levels = [min(found.match + depth, LONGEST_MATCH) for depth in range(len(copied))]
        return Draft.chain(copied, source=self.name, levels=levels)

    def prior(self, level: int) -> float:
        return CHANCES[sum(match <= level for match in CHANCES_FROM) - 1]


def open_ngram(context: DrafterContext) -> NgramDrafter:
    """Return an n-gram drafter for one text."""
    return NgramDrafter(capacity=index_capacity(context.sequence.capacity))
