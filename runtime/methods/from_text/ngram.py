"""Prompt lookup: what followed the last tokens before follows them again."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DrafterContext, Method
from skipstone.runtime.text import LONGEST_MATCH, TextIndex, overlapping

__all__ = ["METHOD", "NgramDrafter", "open_ngram"]


MOST = 64
MOVE_ON_FROM = 8
# The level of a guess is the length of its match, up to the longest told apart.
LEVELS = tuple(min(length, LONGEST_MATCH) for length in range(LONGEST_MATCH + MOST))
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

    def __init__(self, index: TextIndex) -> None:
        self._index = index
        self._place = self._length = self._match = 0

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        if not self._still_follows(history) and not self._finds(history):
            return Draft.empty()
        wanted = min(limit, MOST if min_chance else self._match)
        copied = overlapping(list(history[self._place : self._place + wanted]), wanted)
        return Draft.chain(copied, source=self.name, levels=LEVELS[self._match : self._match + wanted])

    def _still_follows(self, history: Sequence[int]) -> bool:
        """Whether the text went on as it did at the place copied from; then move on there without looking it up."""
        gained = len(history) - self._length
        if self._match < MOVE_ON_FROM or history[self._place : self._place + gained] != history[self._length :]:
            return False
        self._place, self._length = self._place + gained, len(history)
        self._match = min(self._match + gained, LONGEST_MATCH)
        return True

    def _finds(self, history: Sequence[int]) -> bool:
        """Whether the last tokens stood anywhere before; then copy from there."""
        self._index.follow(history)
        found = self._index.continuation(list(history[-LONGEST_MATCH:]), max_places=1)
        if found is not None:
            self._place, self._match = found.position - self._index.start, found.match
        self._length = len(history)
        return found is not None

    def prior(self, level: int) -> float:
        return CHANCES[sum(match <= level for match in CHANCES_FROM) - 1]


def open_ngram(context: DrafterContext) -> NgramDrafter:
    """Return an n-gram drafter for one text."""
    return NgramDrafter(context.text.get("index", lambda: TextIndex(context.sequence.capacity)))


METHOD = Method(name="ngram", drafts=open_ngram, auto_rank=0, text_only=True)
