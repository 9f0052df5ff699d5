"""Stop strings in a stream of text: show what is safe, hold back what could still become one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

from skipstone.errors import ConfigError

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text at the first of several stop strings, however the text is cut into pieces.

    The earliest start wins. So a stop string that is already whole waits while a longer one that starts before it may
    still come: with stops `abcd` and `bc`, the text `abc` is undecided until the next letter or the flush.

    Special tokens have no text. A stop string that holds the name of one, `<|im_end|>\\n`, is looked for in the text
    with all names spelled out; any other in the text that is shown.

    Invariant: `_held` is the longest end of the spelled text in which a proper beginning of a stop string stands; empty
    after a hit. `_is_shown` says of each of its letters whether it is text, not part of a name.
    """

    def __init__(self, stop: Sequence[str], names: Collection[str] = ()) -> None:
        """`names` are those of the special tokens."""
        if isinstance(stop, str):
            raise ConfigError(f"stop must be a list of strings, got the single string {stop!r}; write [{stop!r}]")
        if "" in stop:
            raise ConfigError("a stop string is empty and would end every text at once; remove it")
        spelled = {text for text in stop if any(name and name in text for name in names)}
        self._spelled, self._plain = _StopSet(spelled), _StopSet(text for text in stop if text not in spelled)
        self._held = ""
        self._is_shown: list[bool] = []
        self.hit = False  # whether a stop string has ended the text

    def push(self, text: str, *, name: str = "") -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string was hit; after a hit there is no more text.

        `name` is that of a special token behind the text.
        """
        if self.hit:
            return "", True
        self._hold(text, name)
        undecided = self._undecided_from()
        start = self._first_stop()
        if start is not None and start <= undecided:
            return self._cut(start), True
        return self._take(undecided), False

    def flush(self) -> str:
        """The held-back text when nothing more will come, up to a shorter stop string in it, which then is a hit."""
        start = self._first_stop()
        return self._take(len(self._held)) if start is None else self._cut(start)

    def _hold(self, text: str, name: str) -> None:
        self._held += text
        self._is_shown += [True] * len(text)
        if self._spelled:
            self._held += name
            self._is_shown += [False] * len(name)

    def _take(self, end: int) -> str:
        """Take what stands before `end` out of the held letters; return those of it that are shown."""
        shown = "".join(letter for letter, is_shown in zip(self._held[:end], self._is_shown, strict=False) if is_shown)
        self._held, self._is_shown = self._held[end:], self._is_shown[end:]
        return shown

    def _cut(self, start: int) -> str:
        self.hit = True
        text = self._take(start)
        self._held, self._is_shown = "", []
        return text

    def _views(self) -> tuple[tuple[str, _StopSet, Sequence[int]], ...]:
        """The shown text and the spelled one, each with its stop strings, and the place of each letter among the held.

        The place behind the last letter comes last.
        """
        places = [place for place, is_shown in enumerate(self._is_shown) if is_shown]
        shown = "".join(self._held[place] for place in places)
        spelled = (self._held, self._spelled, range(len(self._held) + 1))
        return (shown, self._plain, [*places, len(self._held)]), spelled

    def _first_stop(self) -> int | None:
        """Where the first whole stop string starts."""
        starts = ((stop.find(text), places) for text, stop, places in self._views())
        return min((places[start] for start, places in starts if start is not None), default=None)

    def _undecided_from(self) -> int:
        """Where the longest end of the held text starts that begins a stop string; its length when none does."""
        return min(places[stop.beginning(text)] for text, stop, places in self._views())


class _StopSet:
    """Stop strings, found in time that hardly grows with their number."""

    def __init__(self, stop: Iterable[str]) -> None:
        self._sorted = sorted(set(stop))
        self._known = frozenset(self._sorted)
        self._lengths = sorted({len(text) for text in self._sorted})

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def find(self, text: str) -> int | None:
        """Where the first stop string in a text starts; None where there is none."""
        for start in range(len(text)) if self._sorted else ():
            if any(text[start : start + length] in self._known for length in self._lengths):
                return start
        return None

    def beginning(self, text: str) -> int:
        """Where the longest end of a text starts that begins a stop string; the length of the text where none does."""
        longest = self._lengths[-1] if self._sorted else 0
        for start in range(max(0, len(text) - longest + 1), len(text)):
            end = text[start:]
            place = bisect_left(self._sorted, end)  # what begins with it comes next
            if place < len(self._sorted) and self._sorted[place].startswith(end):
                return start
        return len(text)
