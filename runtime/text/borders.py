"""Prompts that end inside a word: which tokens may stand where the prompt's last ones do, and say its bytes and more.

A text is cut into tokens with what follows in view: `impor` is two tokens, `import` one, so a model that is shown the
two has never seen what the user means. The last tokens are taken back to a border, and all covers are found: tokens
that spell the bytes behind the border and end at or behind the prompt's end, as the tokenizer would cut that text.

Source: byte-token representation (Phan et al., 2024), exact over bytes; token healing asks for the next token only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.text.text_stream import TextStream
from skipstone.runtime.text.token_index import TokenIndex
from skipstone.runtime.text.tokenizer import Tokenizer
from skipstone.runtime.text.vocabulary import Spelling, num_unfinished_bytes

__all__ = ["Border", "Borders"]

Path: TypeAlias = tuple[int, ...]

MOST_TAKEN: Final = 16  # tokens
LOOK_BEHIND: Final = 10  # tokens before the border, which say how the text behind it is cut
PROBE: Final = "a"  # white space at the end of a text is cut in another way than before a letter
# Last bytes of a character of which the first ones are known; which of them are possible depends on those.
CONTINUATIONS: Final = (b"\x80", b"\xa0", b"\xbf", b"\x90", b"\x9f")


@dataclass(frozen=True, slots=True)
class Border:
    """The last place in a prompt from which on it may be cut anew.

    `tail` are the tokens that stand behind it, `rights` what may stand in their place: for each beginning, all tokens
    that go on to the prompt's end or beyond. Not all of these are covers; `is_cover` says.
    """

    start: int
    tail: Path
    rights: Mapping[Path, NDArray[np.int64]]
    _cutter: _Cutter

    def is_cover(self, left: Path, right: int) -> bool:
        """Whether the tokenizer would cut a text like that. Cost: that of cutting a short text a few times."""
        path = (*left, right)
        return path == self.tail or path in self._cutter.cuts(self._cutter.spelling.join(path))

    def is_beyond(self, left: Path, right: int) -> bool:
        """Whether tokens say more than the prompt does."""
        return len(self._cutter.spelling.join((*left, right))) > len(self._cutter.spelling.join(self.tail))

    def num_letters(self, before: int | None) -> int:
        """Return how many letters the tail shows behind the token `before`."""
        stream = TextStream(self._cutter.spelling.tokenizer, after=before)
        return sum(len(stream.push(token_id)) for token_id in self.tail) + len(stream.flush())


class Borders:
    """Finds the borders of prompts. Keep one for each model: the index of its vocabulary takes a moment to make.

    Raises: ConfigError for a vocabulary that is spelled neither as byte-level BPE nor as SentencePiece.
    """

    def __init__(self, tokenizer: Tokenizer, *, size: int) -> None:
        """`size` is how many tokens the model knows."""
        self._spelling = Spelling(tokenizer)
        self._index = TokenIndex(self._spelling, size=size)

    def find(self, token_ids: SequenceOf[int], *, least: int = 0) -> Border | None:
        """Return the last border of a prompt, at least `least` tokens behind its start; None where nothing may change.

        So behind a special token, and where the tokens are not those into which the tokenizer would cut their text.
        """
        cutter = _cutter_of(self._spelling, token_ids, least)
        if cutter is None or cutter.start >= len(token_ids):
            return None
        tail = tuple(token_ids[cutter.start :])
        rights = dict(self._rights(tail, cutter))
        rights.setdefault(tail[:-1], self._index.starting_with(self._spelling.of(tail[-1])))
        if all(len(ids) == 1 and (*left, int(ids[0])) == tail for left, ids in rights.items()):
            return None
        return Border(cutter.start, tail, rights, cutter)

    def _rights(self, tail: Path, cutter: _Cutter) -> Iterator[tuple[Path, NDArray[np.int64]]]:
        """Yield each beginning of the tail's bytes, as tokens, with the tokens that may end or go beyond them."""
        data = self._spelling.join(tail)
        for split in range(len(data)):
            ids = self._index.starting_with(data[split:])
            lefts: set[Path] = {()}
            if len(ids) and _is_inside(data[split:]):  # then there is no text that the left alone could be cut from
                paths = (path for right in ids for path in cutter.cuts(data[:split] + self._spelling.of(int(right))))
                lefts = {path[:-1] for path in paths if len(self._spelling.join(path[:-1])) == split}
            elif len(ids) and split:
                lefts = cutter.cuts(data[:split])
            yield from ((left, ids) for left in sorted(lefts) if len(ids))


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts what follows a border into tokens, with some tokens before it in view.

    `before` are their ids, `lead` their bytes, of which the first `num_dropped` are of no text: the space that a
    tokenizer puts in front of one.
    """

    spelling: Spelling
    start: int
    before: list[int]
    lead: bytes
    num_dropped: int

    def cuts(self, data: bytes) -> set[Path]:
        """Return the tokens that spell `data` at the beginning of texts: alone, and with a letter behind.

        A character that is not whole is made whole in some ways.
        """
        texts = [text + probe for text in _whole(data) for probe in ("", PROBE)]
        return {path for text in texts if (path := self._cut(text, len(data))) is not None}

    def _cut(self, text: str, size: int) -> Path | None:
        """Return the tokens of the first `size` bytes of a text behind the border; None where these end inside one."""
        first = len(self.before)
        encoded = self.spelling.encode((self.lead + text.encode())[self.num_dropped :].decode())
        if encoded[:first] != self.before:
            return None
        path: list[int] = []
        for token_id in encoded[first:]:
            if size <= 0:
                break
            path.append(token_id)
            size -= len(self.spelling.of(token_id))
        return tuple(path) if size == 0 else None


def _whole(data: bytes) -> list[str]:
    """Return texts of whole characters that begin with `data`."""
    missing = num_unfinished_bytes(data)
    needed = _num_bytes(data[-missing]) - missing if missing else 0
    return _decoded([data + end + b"\x80" * (needed - 1) for end in (CONTINUATIONS if missing else (b"",))])


def _num_bytes(first: int) -> int:
    """Return how many bytes a character has that begins with this one."""
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2


def _decoded(texts: list[bytes]) -> list[str]:
    decoded = []
    for data in texts:
        try:
            decoded.append(data.decode())
        except UnicodeDecodeError:  # not every byte may follow every other
            continue
    return decoded


# The border


def _cutter_of(spelling: Spelling, token_ids: SequenceOf[int], least: int) -> _Cutter | None:
    """Return what cuts texts behind the last border of a prompt.

    The tokens in view must be those that the tokenizer gives for their own text; the more of them the better.
    """
    in_view = _first_in_view(spelling, token_ids)
    for first in range(in_view, len(token_ids)):
        ids = list(token_ids[first:])
        data = spelling.join(ids)
        for num_dropped in (0, 1) if data[:1] == b" " else (0,):
            text = "".join(_decoded([data[num_dropped:]]))
            encoding = spelling.tokenizer.backend.encode(text, add_special_tokens=False)
            if text and encoding.ids == ids:
                start = max(_border([spelling.of(token_id) for token_id in ids], encoding.word_ids), least - first)
                if start == 0 and first > in_view:
                    return None  # the last word is cut in another way than the tokenizer would
                return _Cutter(spelling, first + start, ids[:start], spelling.join(ids[:start]), num_dropped)
    return None


def _first_in_view(spelling: Spelling, token_ids: SequenceOf[int]) -> int:
    """Return the place of the first token that is looked at: behind special ones, and not inside a character."""
    end = len(token_ids)
    first = max(0, end - MOST_TAKEN - LOOK_BEHIND)
    start = next((place + 1 for place in reversed(range(first, end)) if not spelling.of(token_ids[place])), first)
    while start < end and _is_inside(spelling.of(token_ids[start])):
        start += 1
    return start


def _border(spelled: SequenceOf[bytes], words: SequenceOf[int | None]) -> int:
    """Return where the last word begins, by the tokenizer's own rule or by white space, or how far one may go back."""
    places = [max(0, len(spelled) - MOST_TAKEN)]
    places += [
        place
        for place in range(1, len(spelled))
        if words[place] != words[place - 1] or _starts_space(spelled[place - 1], spelled[place])
    ]
    start = max(places)
    while start < len(spelled) and _is_inside(spelled[start]):
        start += 1
    return start


def _starts_space(before: bytes, data: bytes) -> bool:
    return data[:1].isspace() and not before[-1:].isspace()


def _is_inside(data: bytes) -> bool:
    """Whether bytes begin inside a character."""
    return bool(data) and data[0] & 0xC0 == 0x80
