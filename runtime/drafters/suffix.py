"""Suffix decoding: what most often followed the longest match, in this text and in those before it."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.runtime.draft import Draft
from skipstone.runtime.drafters.acceptance import Acceptance
from skipstone.runtime.drafters.drafter import Drafter, Round
from skipstone.runtime.drafters.registry import DrafterContext
from skipstone.runtime.drafters.suffix_index import LONGEST_MATCH, Continuation, SuffixIndex, index_capacity
from skipstone.runtime.drafters.suffix_memory import SuffixMemory

__all__ = ["SuffixDrafter", "open_suffix"]

OTHER_TEXTS = 100
# A match this long is copied on as it stands; looking again would find the same place.
COPY_FROM = 8
# A match this long in the text itself is better evidence than other texts.
OWN_MATCH = 4
MATCH_CLASS = {1: 0, 2: 1, 3: 2, 4: 3, 8: 4, 16: 5, 32: 6}
PRIOR_BY_MATCH = (0.15, 0.3, 0.4, 0.5, 0.7, 0.85, 0.9)
PRIOR_BY_VOTE = (1.15, 1.05, 1.0, 0.8, 0.5)


class SuffixDrafter(Drafter):
    """Follows the likeliest continuation token by token, looking again after each, from this text or earlier ones.

    Levels: how long the match is, how unanimous the places are, and whether they lie in this text. By itself it guesses
    as many tokens as matched; a planner that cuts drafts asks for more.

    Source: SuffixDecoding (Oliaro et al., 2024), its two trees as two bounded indexes, its frequencies as calibrated
    votes of the newest places. Cost: 5 to 10 microseconds a guess.
    """

    name = "suffix"

    def __init__(self, *, capacity: int, memory: SuffixMemory, acceptance: Acceptance, num_known: int = 0) -> None:
        """The first `num_known` tokens of the text are in the memory already."""
        self._index, self._memory, self._acceptance = SuffixIndex(capacity), memory, acceptance
        self._num_known, self._num_seen = num_known, 0
        self._last = Draft.empty()

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self._index.add(history[self._num_seen :])
        self._num_seen = len(history)
        context = list(history[-LONGEST_MATCH:])
        token_ids: list[int] = []
        levels: list[int] = []
        chance, longest = 1.0, limit
        while len(token_ids) < longest and chance >= min_chance:
            found = self._best(context)
            if found is None:
                break
            level, source, place = found
            if not (token_ids or min_chance):
                longest = min(limit, place.match)
            copied = [place.token_id]
            if place.match >= COPY_FROM:
                copied = source.following(place.position, longest - len(token_ids))
            token_ids += copied
            levels += [level] * len(copied)
            chance *= self._acceptance.chance(level) ** len(copied)
            context = [*context, *copied][-LONGEST_MATCH:]
        self._last = Draft.chain(token_ids, source=self.name, levels=levels)
        return self._last

    def _best(self, context: list[int]) -> tuple[int, SuffixIndex, Continuation] | None:
        """Return the likelier of what this text and the others suggest, with its level and where it stands."""
        own, memory = self._index.continuation(context), self._memory.index
        other = None if own and own.match >= OWN_MATCH else memory.continuation(context)
        own_level, other_level = own and _level(own), other and OTHER_TEXTS + _level(other)
        if own is not None and own_level is not None:
            chance = self._acceptance.chance
            if other_level is None or chance(own_level) >= chance(other_level):
                return own_level, self._index, own
        return None if other is None or other_level is None else (other_level, memory, other)

    def observe(self, seen: Round) -> None:
        for guess, level, token_id in zip(self._last.token_ids, self._last.levels, seen.token_ids, strict=False):
            self._acceptance.update(level, accepted=guess == token_id)
            if guess != token_id:
                break
        self._last = Draft.empty()

    def prior(self, level: int) -> float:
        return prior(level)

    def finish(self, history: Sequence[int]) -> None:
        self._memory.add(history[self._num_known :])


def _level(found: Continuation) -> int:
    """Return the class of evidence: the match first, then how the places voted."""
    if found.votes == found.places:
        vote = 0 if found.places >= 4 else 1 if found.places >= 2 else 2
    else:
        vote = 3 if 2 * found.votes >= found.places else 4
    return MATCH_CLASS[found.match] * len(PRIOR_BY_VOTE) + vote


def prior(level: int) -> float:
    """Return the chance of a level that was never tried, as seen on code."""
    match, vote = divmod(level % OTHER_TEXTS, len(PRIOR_BY_VOTE))
    return min(0.95, PRIOR_BY_MATCH[match] * PRIOR_BY_VOTE[vote])


def open_suffix(context: DrafterContext) -> SuffixDrafter:
    """Return a suffix drafter for one text, which shares the earlier texts of this model."""
    return SuffixDrafter(
        capacity=index_capacity(context.sequence.capacity),
        memory=context.shared.get("suffix memory", SuffixMemory),
        acceptance=context.shared.get("suffix acceptance", lambda: Acceptance(prior)),
        num_known=context.sequence.num_cached,
    )
