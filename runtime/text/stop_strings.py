"""Stop strings in a stream of text: show what is safe, hold back what could still become one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
        self._spelled = tuple(text for text in stop if any(name and name in text for name in names))
        self._plain = tuple(text for text in stop if text not in self._spelled)
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

    def _views(self) -> tuple[tuple[str, tuple[str, ...], Sequence[int]], ...]:
        """The shown text and the spelled one, each with its stop strings, and the place of each letter among the held.

        The place behind the last letter comes last.
        """
        places = [place for place, is_shown in enumerate(self._is_shown) if is_shown]
        shown = "".join(self._held[place] for place in places)
        spelled = (self._held, self._spelled, range(len(self._held) + 1))
        return (shown, self._plain, [*places, len(self._held)]), spelled

    def _first_stop(self) -> int | None:
        """Where the first whole stop string starts."""
        starts = (
            places[start]
            for text, stop, places in self._views()
            for start in (text.find(one) for one in stop)
            if start >= 0
        )
        return min(starts, default=None)

    def _undecided_from(self) -> int:
        """Where the longest end of the held text starts that begins a stop string; its length when none does."""
        return min(places[_beginning(text, stop)] for text, stop, places in self._views())


def _beginning(text: str, stop: Sequence[str]) -> int:
    """Where the longest end of `text` starts that begins one of the stop strings; the length of `text` if none does."""
    longest = max(map(len, stop), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(one.startswith(text[start:]) for one in stop):
            return start
    return len(text)
