"""Where the last few tokens stood before: a bounded index over tokens, of one text or of many."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

from skipstone.errors import ConfigError

__all__ = ["BOUNDARY", "LONGEST_MATCH", "Continuation", "SuffixIndex", "TextIndex", "overlapping"]

# No token: stands between two texts, so that no match runs over it.
BOUNDARY = 2**31 - 1
LONGER_MATCHES = MappingProxyType({4: (8, 16, 32), 2: (3,)})
LONGEST_MATCH = 32  # that is told apart from longer ones


class Continuation(NamedTuple):
    """A token that stood behind the same tokens before.

    `match`: how many tokens before it are surely the same, 1, 2, 3, 4, 8, 16 or 32. It followed in `votes` of the
    `places` that were looked at; the newest of them is `position`.
    """

    token_id: int
    match: int
    votes: int
    places: int
    position: int


class SuffixIndex:
    """The last `capacity` tokens added, and for every run of 1, 2 or 4 tokens the places where it ends, newest first.

    A ring of tokens with hash chains, as compressors use: memory is fixed, about 100 bytes for each token of
    `capacity`; adding a token takes a microsecond; the oldest tokens fall out by being overwritten.

    Invariant: token number i of all ever added is in slots i % capacity and i % capacity + capacity while it is among
    the last `capacity`; a link leads to a smaller number or to one that has fallen out.
    """

    ORDERS = (4, 2, 1)

    def __init__(self, capacity: int) -> None:
        """`capacity` must be a power of two."""
        if capacity < 64 or capacity & (capacity - 1):
            raise ConfigError(f"the capacity of a suffix index must be a power of two from 64 on, got {capacity}")
        self.capacity = capacity
        self._tokens = [BOUNDARY] * (2 * capacity)
        # For each order the newest number of every hash, and for every slot the one before it with the same hash.
        self._chains = tuple((n, array("q", [0]) * (2 * capacity), array("q", [0]) * capacity) for n in self.ORDERS)
        # Numbers start behind a ring of boundaries: so 0 means "nowhere", and no run reaches before the first token.
        self.end = capacity

    def add(self, token_ids: Sequence[int]) -> None:
        """Append tokens, BOUNDARY between texts."""
        for start in range(0, len(token_ids), self.capacity):
            self._add(list(token_ids[start : start + self.capacity]))

    def _add(self, new: list[int]) -> None:
        tokens, capacity, mask, end = self._tokens, self.capacity, self.capacity - 1, self.end
        longest = self.ORDERS[0] - 1
        stop = ((end - 1) & mask) + capacity + 1
        text = tokens[stop - longest : stop] + new
        for slot, token_id in enumerate(new, start=end):
            tokens[slot & mask] = tokens[(slot & mask) + capacity] = token_id
        for order, heads, links in self._chains:
            runs = zip(*(text[longest + 1 - order + place :] for place in range(order)), strict=False)
            for number, run in enumerate(runs, start=end + 1):
                bucket = hash(run) & (2 * mask + 1)
                links[(number - 1) & mask] = heads[bucket]
                heads[bucket] = number
        self.end = end + len(new)

    def continuation(self, context: list[int], *, max_places: int = 4) -> Continuation | None:
        """Return what most often followed the last tokens of `context`, the newest of equals, None if nothing did.

        Of each context the `max_places` newest places are looked at. The longest run of tokens that stood anywhere
        before decides. Cost: 3 to 5 microseconds.
        """
        if self.end == self.capacity:
            return None
        for order, heads, links in self._chains:
            run = context[-order:]
            places = self._places(run, heads, links, max_places)
            if places:
                return self._vote(places, run, context)
        return None

    def _places(self, run: list[int], heads: array[int], links: array[int], max_places: int) -> list[int]:
        """Return the numbers of the tokens that stand behind `run`, newest first."""
        tokens, capacity, mask, order = self._tokens, self.capacity, self.capacity - 1, len(run)
        oldest = self.end - capacity + order
        position = heads[hash(tuple(run)) & (2 * mask + 1)]
        places: list[int] = []
        for _ in range(2 * max_places):
            if position < oldest:
                break
            slot = (position - 1) & mask
            stop = slot + capacity + 1
            # A place at the very end has nothing behind it yet, and another run may share the hash.
            if position < self.end and tokens[stop - order : stop] == run:
                places.append(position)
                if len(places) == max_places:
                    break
            position = links[slot]
        return places

    def _vote(self, places: list[int], run: list[int], context: list[int]) -> Continuation | None:
        tokens, mask = self._tokens, self.capacity - 1
        followers = [tokens[position & mask] for position in places]
        best, count = followers[0], followers.count(followers[0])
        if 2 * count < len(followers):
            best = max(followers, key=followers.count)  # the first, so the newest, of equals
            count = followers.count(best)
        if best == BOUNDARY:
            return None
        position = places[followers.index(best)]
        return Continuation(best, self._match(position, len(run), context), count, len(places), position)

    def _match(self, position: int, order: int, context: list[int]) -> int:
        """Return how many tokens before `position` are the last ones of `context`, as one of the lengths told apart."""
        tokens, stop = self._tokens, ((position - 1) & (self.capacity - 1)) + self.capacity + 1
        num_kept = position - self.end + self.capacity  # what stood before them has fallen out
        match = order
        for length in LONGER_MATCHES.get(order, ()):
            if length > num_kept or tokens[stop - length : stop] != context[-length:]:
                break
            match = length
        return match

    def following(self, position: int, limit: int) -> list[int]:
        """Return the tokens from number `position` on, at most `limit`, up to the end or a boundary."""
        stop = min(position + limit, self.end)
        found = [self._tokens[number & self.capacity - 1] for number in range(position, stop)]
        return found[: found.index(BOUNDARY)] if BOUNDARY in found else found


class TextIndex(SuffixIndex):
    """The index of one text, which the drafters of that text share."""

    def __init__(self, num_tokens: int) -> None:
        """`num_tokens` is the most that the text can have; of a very long one its end is indexed."""
        super().__init__(min(max(64, 1 << (num_tokens - 1).bit_length()), 16384))
        self.start = self.end  # the number of the text's first token
        self._num_seen = 0

    def follow(self, history: Sequence[int]) -> None:
        """Add what the text has gained since the last time."""
        if len(history) > self._num_seen:
            self.add(history[self._num_seen :])
            self._num_seen = len(history)


def overlapping(copied: list[int], wanted: int) -> list[int]:
    """Return `wanted` tokens copied from the end of a text to behind it, where the copy is copied on; [] of nothing."""
    return (copied * -(-wanted // len(copied)))[:wanted] if copied else copied
