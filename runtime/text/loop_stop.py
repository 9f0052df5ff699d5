"""When a text has fallen into a loop: it says the same few tokens over and over, and would do so for ever."""

from __future__ import annotations

import sys
from collections import deque

from skipstone.errors import ConfigError

__all__ = ["CHAT_STOP_LOOPS", "LoopStop"]

LEAST_TIMES = 4

CHAT_STOP_LOOPS = 32
"""What a chat takes where nothing is said: a sentence four times, but no ruled line, table or list up to 64 tokens."""


class LoopStop:
    """Ends a text whose last tokens are the same `longest` tokens or fewer, again and again.

    A loop comes at least four times in a row and fills at least twice `longest` tokens: so a short one comes more
    often, and a line of dashes is none. Only what is pushed counts, no prompt.

    Invariant: `_matches[period]` is how many of the last tokens in a row equal the one `period` places before; periods
    without a match are left out. Cost: O(longest) for each token.
    """

    def __init__(self, longest: int) -> None:
        """`longest` 0 never ends a text. Raises: ConfigError for less."""
        if longest < 0:
            raise ConfigError(f"stop_loops must be at least 0, which is off, got {longest}")
        self._longest = longest
        self._recent: deque[int] = deque(maxlen=min(longest, sys.maxsize))
        self._matches: dict[int, int] = {}

    def push(self, token_id: int) -> bool:
        """Return whether the text is a loop at its end, with this token."""
        self._matches = {
            period: self._matches.get(period, 0) + 1
            for period, earlier in enumerate(self._recent, start=1)
            if earlier == token_id
        }
        self._recent.appendleft(token_id)
        return any(
            num_matches + period >= max(LEAST_TIMES * period, 2 * self._longest)
            for period, num_matches in self._matches.items()
        )
