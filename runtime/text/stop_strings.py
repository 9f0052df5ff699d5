"""Stop strings in a stream of text: show what is safe, hold back what could still become one."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.errors import ConfigError

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text at the first of several stop strings, however the text is cut into pieces.

    The earliest start wins. So a stop string that is already whole waits while a longer one that starts before it may
    still come: with stops `abcd` and `bc`, the text `abc` is undecided until the next letter or the flush.

    Invariant: `_held` is the longest end of the text that is a proper beginning of a stop string; empty after a hit.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if isinstance(stop, str):
            raise ConfigError(f"stop must be a list of strings, got the single string {stop!r}; write [{stop!r}]")
        if "" in stop:
            raise ConfigError("a stop string is empty and would end every text at once; remove it")
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self.hit = False  # whether a stop string has ended the text

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string was hit; after a hit there is no more text."""
        if self.hit:
            return "", True
        text = self._held + text
        undecided = self._undecided_from(text)
        start = self._first_stop(text)
        if start is not None and start <= undecided:
            return self._cut(text, start), True
        self._held = text[undecided:]
        return text[:undecided], False

    def flush(self) -> str:
        """The held-back text when nothing more will come, up to a shorter stop string in it, which then is a hit."""
        text, self._held = self._held, ""
        start = self._first_stop(text)
        return text if start is None else self._cut(text, start)

    def _cut(self, text: str, start: int) -> str:
        self._held = ""
        self.hit = True
        return text[:start]

    def _first_stop(self, text: str) -> int | None:
        """Where the first whole stop string starts."""
        starts = (text.find(stop) for stop in self._stop)
        return min((start for start in starts if start >= 0), default=None)

    def _undecided_from(self, text: str) -> int:
        """Where the longest end of `text` starts that begins a stop string; the length of `text` when none does."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                return start
        return len(text)
