"""A text told again to a model with another tokenizer, a few tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import takewhile

from skipstone.runtime.engine import Sequence
from skipstone.runtime.text import SharedVocabulary, Spelling, num_unfinished_bytes, whole_characters

__all__ = ["Mirror"]


class Mirror:
    """Keeps the drafter's own sequence in step with the target's text.

    Invariant after a `follow` that returned True: the first `num_told` tokens of `sequence` spell the target's text,
    without its special tokens; `follow` leaves no others, and what is drafted comes behind them. Broken characters are
    told as U+FFFD, and a tokenizer that normalises text is told what it makes of it.
    """

    def __init__(
        self, sequence: Sequence, *, target: Spelling, own: Spelling, shared: SharedVocabulary | None = None
    ) -> None:
        """With `shared`, tokens of both vocabularies are told one by one as they are; else all text is encoded anew."""
        self.sequence, self.num_told = sequence, 0
        self._target, self._own, self._shared = target, own, shared
        self._num_read, self._untold = 0, b""
        self._is_full = False

    def follow(self, history: SequenceOf[int]) -> bool:
        """Tell what is new in `history`, which only grows; return whether the sequence is in step with it.

        It is not while the text ends inside a character, nor ever again once it has outgrown the drafter's context.
        Cost: that of encoding the new text and the window before it; the whole text the first time, and when no token
        of the window is found again.
        """
        if self._is_full:
            return False
        new = history[self._num_read :]
        self._num_read = len(history)
        token_ids = self._map(new)
        if token_ids is not None:
            return self._take(self.num_told, token_ids)
        self._untold += self._target.join(new)
        last = self.sequence.token_ids[max(0, self.num_told - 3) : self.num_told]
        if num_unfinished_bytes(self._own.join(last) + self._untold):
            return False
        start, token_ids = self._encode_window() or (0, self._encode_all(history))
        self._untold = b""
        return self._take(start, token_ids)

    def _map(self, new: SequenceOf[int]) -> list[int] | None:
        """Return the drafter's ids of the new tokens; None when they have to be told as text."""
        if self._shared is None or self._untold or not self.num_told:
            return None
        if not all(token_id in self._shared.drafter_id for token_id in new):
            return None
        return [self._shared.drafter_id[token_id] for token_id in new]

    def _encode_window(self) -> tuple[int, list[int]] | None:
        """Return the place from which the tokens change, or may change, and all tokens from there on.

        The place is where the old and the new encoding of the window first have the same token. None when there is no
        such, when the tokenizer rewrites the text, or when what was told, token by token, is broken.
        """
        first = self._own.window(self.sequence.token_ids, self.num_told)
        old = self.sequence.token_ids[first : self.num_told]
        if not old:
            return None
        before = self._own.join(old)
        text = whole_characters(before) + self._untold.decode("utf-8", "replace")
        new, data = self._own.encode(text), text.encode()
        spelled = self._own.join(new)
        if not data.startswith(before) or not spelled.endswith(data):
            return None
        met = dict(zip(self._offsets(old, 0), enumerate(old), strict=True))
        # A space that the tokenizer puts in front lies before the window.
        for index, offset in enumerate(self._offsets(new, len(data) - len(spelled))):
            place, token_id = met.get(offset, (0, None))
            if token_id == new[index]:
                return first + place, new[index:]
        return None

    def _offsets(self, token_ids: SequenceOf[int], offset: int) -> list[int]:
        """Return at which byte each token begins, the first at `offset`."""
        offsets = []
        for token_id in token_ids:
            offsets.append(offset)
            offset += len(self._own.of(token_id))
        return offsets

    def _encode_all(self, history: SequenceOf[int]) -> list[int]:
        """Return the tokens of the whole text, the drafter's own token for the beginning of a text before them."""
        token_ids = self._own.tokenizer.encode(self._target.text(history))
        while len(token_ids) > 1 and token_ids[-1] in self._own.tokenizer.special_ids:
            token_ids.pop()
        return token_ids

    def _take(self, start: int, token_ids: SequenceOf[int]) -> bool:
        """Put the tokens behind the first `start` of the sequence, which keeps what it has of them already."""
        self._is_full = start + len(token_ids) > self.sequence.capacity
        if self._is_full or not start + len(token_ids):
            return False
        there = zip(self.sequence.token_ids[start:], token_ids, strict=False)
        num_kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], there))
        self.sequence.rollback(start + num_kept)
        self.sequence.append(token_ids[num_kept:])
        self.num_told = start + len(token_ids)
        return True
