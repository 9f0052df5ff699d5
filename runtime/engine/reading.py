"""Who hears how a prompt is read: a piece at a time, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["PromptProgress", "PromptWatch", "current_watch", "watched_by"]


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far a prompt is read: `num_read` of the `num_tokens` that are not cached, in so many seconds.

    `half_read` are the tokens that were read when about half of these were, in `half_s`; 0 where there was one piece.
    """

    num_read: int
    num_tokens: int
    seconds: float
    half_read: int = 0
    half_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """The speed so far; 0 where there is none yet."""
        return self.num_read / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float:
        """About how many seconds the rest takes; 0 where there is no speed yet.

        A token behind a longer text takes longer. So where the second half of what is read was slower than the first,
        the rest is taken to slow as much with each token, for at most as many tokens as are read.
        """
        if not self.tokens_per_s:
            return 0.0
        cost = (self.seconds - self.half_s) / (self.num_read - self.half_read)
        if self.half_read:
            slower = max(0.0, cost - self.half_s / self.half_read) / (self.num_read / 2)
            cost += slower * min((self.num_tokens - self.half_read) / 2, self.num_read)
        return (self.num_tokens - self.num_read) * cost


OnPrompt = Callable[[PromptProgress], None]


class PromptWatch:
    """Hears of each piece of what one text reads: its prompt, and that of a draft model where it takes several pieces.

    Invariant: 0 <= num_read <= num_tokens, and the two are equal while nothing is read.
    """

    def __init__(self, on_prompt: OnPrompt | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._on_prompt, self._clock = on_prompt, clock
        self.num_read = self.num_tokens = 0
        self.has_begun = False  # whether the text has a token: then a few that wait are drafts, and no prompt
        self._start, self._pieces = clock(), [(0, 0.0)]

    def expect(self, num_tokens: int, *, piece: int = 1) -> None:
        """Note that so many tokens are read next; few of them, up to a `piece` once the text has begun, are none."""
        if self.has_begun and num_tokens <= piece:
            return
        if self.num_read == self.num_tokens:
            self.num_read, self.num_tokens, self._start = 0, 0, self._clock()
            self._pieces = [(0, 0.0)]
        self.num_tokens = max(self.num_tokens, self.num_read + num_tokens)

    def read(self, num_tokens: int) -> None:
        """Note that so many tokens were read."""
        if self.num_read == self.num_tokens:
            return
        self.num_read = min(self.num_read + num_tokens, self.num_tokens)
        if self._on_prompt is not None:
            seconds = self._clock() - self._start
            half = min(self._pieces, key=lambda piece: abs(2 * piece[0] - self.num_read))
            self._pieces.append((self.num_read, seconds))
            self._on_prompt(PromptProgress(self.num_read, self.num_tokens, seconds, *half))


_CURRENT: ContextVar[PromptWatch | None] = ContextVar("prompt watch", default=None)


def current_watch() -> PromptWatch:
    """Return who hears what is read here now; where nobody does, one that tells nobody."""
    return _CURRENT.get() or PromptWatch()


@contextmanager
def watched_by(watch: PromptWatch) -> Iterator[None]:
    """Let a watch hear of the prompts that are read meanwhile, in this thread."""
    token = _CURRENT.set(watch)
    try:
        yield
    finally:
        _CURRENT.reset(token)
