"""Guessed tokens, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Draft", "Drafter", "PlainDrafter"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A chain of guesses for the tokens after the pending one; an empty draft makes a plain decoding step."""

    token_ids: tuple[int, ...]
    source: str

    @classmethod
    def chain(cls, token_ids: Sequence[int], *, source: str) -> Draft:
        return cls(tuple(token_ids), source)

    @classmethod
    def empty(cls) -> Draft:
        return cls((), "plain")

    def __len__(self) -> int:
        return len(self.token_ids)


class Drafter(Protocol):
    """Guesses what comes next from the text alone or with means of its own."""

    def propose(self, history: Sequence[int], *, limit: int) -> Draft:
        """Return at most `limit` guesses for the tokens after `history`, whose last token is the pending one."""
        ...


class PlainDrafter:
    """Guesses nothing: one token per model call."""

    def propose(self, history: Sequence[int], *, limit: int) -> Draft:
        return Draft.empty()
