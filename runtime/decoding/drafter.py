"""What a drafter is: it guesses, it sees what came of it, and guesses again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Draft

__all__ = ["Drafter", "PlainDrafter", "Round"]


@dataclass(frozen=True, slots=True)
class Round:
    """What one model call showed. `logits` [1 + N, V] follow the rows of the draft and are valid during `observe` only.

    `token_ids` were emitted; `rows` are those of the tokens that stay in the cache: row 0 and the accepted guesses.
    `pending_id` was fed in row 0. `model_ms` is the time of the call, which is shorter where the first stages of the
    model had seen `num_peeked` of its rows before.
    """

    draft: Draft
    pending_id: int
    token_ids: list[int]
    rows: list[int]
    logits: NDArray[np.float32]
    model_ms: float = 0.0
    num_peeked: int = 0


class Drafter(Protocol):
    """Guesses what comes next, from the text alone or with means of its own; made for one text.

    The text is the same whatever it guesses. `name` stands in reports. `reading_share` is what reading a token of the
    text costs before the first guess, as a share of a plain step. `peeks`: whether its guesses run the first stages of
    the target, so that the call after them is shorter. Who inherits from this needs `propose` only.
    """

    name: str
    reading_share: float = 0.0
    peeks: bool = False

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        """Return at most `limit` guesses for the tokens after `history`, whose last token is the pending one.

        `history` is the live list: read it, do not keep it or change it. It only ever grows while a text is made.
        A guess that is reached and accepted with a chance below `min_chance` is not worth its row; what does not know
        its chances ignores this.
        """
        ...

    def prior(self, level: int) -> float:
        """Return the chance of a guess of this level before any was seen."""
        return 0.4

    def observe(self, seen: Round) -> None:
        """Learn from the call that verified the last draft, that of another drafter, or none."""
        return None

    def finish(self, history: Sequence[int]) -> None:
        """Keep what should outlive the text, which has ended or been left; `history` is all of it."""
        return None


class PlainDrafter(Drafter):
    """Guesses nothing: one token per model call."""

    name = "plain"

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        return Draft.empty()
