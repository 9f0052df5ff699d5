"""Suffix decoding: what most often followed the longest match, in this text and in those before it."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DrafterContext, Method
from skipstone.runtime.text import LONGEST_MATCH, Continuation, SuffixIndex, SuffixMemory, TextIndex, overlapping

__all__ = ["METHOD", "SuffixDrafter", "open_suffix"]

OTHER_TEXTS = 100
# A match this long is copied on as it stands; looking again would find the same place.
COPY_FROM = 8
# A match this long in the text itself is better evidence than other texts.
OWN_MATCH = 4
MATCHES = (1, 2, 3, 4, 8, 16, 32)
# How often guesses were right in replays of library code and of assistants' prose: a line for each match, in it the
# votes "all of 4 places", "all of 2 or 3", "the only place", "at least half" and "fewer".
CHANCES = (
    (0.65, 0.50, 0.20, 0.20, 0.07),
    (0.82, 0.72, 0.38, 0.23, 0.08),
    (0.90, 0.80, 0.50, 0.36, 0.15),
    (0.95, 0.88, 0.63, 0.36, 0.15),
    (0.90, 0.86, 0.78, 0.62, 0.20),
    (0.95, 0.93, 0.91, 0.80, 0.30),
    (0.98, 0.95, 0.93, 0.90, 0.50),
)
OTHER_SHARE = (0.6, 0.6, 0.7, 0.8, 0.95, 1.0, 1.0)  # of these chances, for guesses from other texts
NUM_VOTES = 5
# By how much the level of a copied token lies above that of the first, as the match grows: a line for each first match.
GROWTH = MappingProxyType(
    {
        match: tuple(sum(match < longer <= match + depth for longer in MATCHES) * NUM_VOTES for depth in range(64))
        for match in MATCHES
    }
)


class SuffixDrafter(Drafter):
    """Follows the likeliest continuation token by token, looking again after each, from this text or earlier ones.

    Levels: how long the match is, how unanimous the places are, and whether they lie in this text. By itself it guesses
    as many tokens as matched; a planner that cuts drafts asks for more.

    Source: SuffixDecoding (Oliaro et al., 2024), its two trees as two bounded indexes, its frequencies as votes of the
    newest places. Cost: 5 to 10 microseconds a guess.
    """

    name = "suffix"

    def __init__(self, index: TextIndex, memory: SuffixMemory, *, num_known: int = 0) -> None:
        """The first `num_known` tokens of the text are in the memory already."""
        self._index, self._memory, self._num_known = index, memory, num_known

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self._index.follow(history)
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
            copied, copied_levels = [place.token_id], [level]
            if place.match >= COPY_FROM:
                wanted = min(longest - len(token_ids), len(GROWTH[place.match]))
                copied = source.following(place.position, wanted)
                if source is self._index:
                    copied = overlapping([*copied, *token_ids], wanted)  # behind the text stands the draft so far
                copied_levels = [level + growth for growth in GROWTH[place.match][: len(copied)]]
            token_ids += copied
            levels += copied_levels
            chance *= prior(level)
            context = [*context, *copied][-LONGEST_MATCH:]
        return Draft.chain(token_ids, source=self.name, levels=levels)

    def _best(self, context: list[int]) -> tuple[int, SuffixIndex, Continuation] | None:
        """Return the likelier of what this text and the others suggest, with its level and where it stands."""
        own, memory = self._index.continuation(context), self._memory.index
        other = None if own and own.match >= OWN_MATCH else memory.continuation(context)
        if own is None or (other is not None and prior(OTHER_TEXTS + _level(other)) > prior(_level(own))):
            return None if other is None else (OTHER_TEXTS + _level(other), memory, other)
        return _level(own), self._index, own

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
    return MATCHES.index(found.match) * NUM_VOTES + vote


def prior(level: int) -> float:
    """Return the chance of a level that was never tried."""
    match, vote = divmod(level % OTHER_TEXTS, NUM_VOTES)
    return CHANCES[match][vote] * (OTHER_SHARE[match] if level >= OTHER_TEXTS else 1.0)


def open_suffix(context: DrafterContext) -> SuffixDrafter:
    """Return a suffix drafter for one text, which shares the earlier texts of this model."""
    return SuffixDrafter(
        context.text.get("index", lambda: TextIndex(context.sequence.capacity)),
        context.shared.get("suffix memory", SuffixMemory),
        num_known=context.sequence.num_cached,
    )


METHOD = Method(name="suffix", drafts=open_suffix, auto_rank=1, text_only=True, remembers=True)
