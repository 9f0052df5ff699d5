"""What a drafter is: it guesses, it sees what came of it, and guesses again. It can never do harm.

What a drafter may not propose is refused here, and decoding goes on without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Draft, Sequence

__all__ = ["Accept", "Choose", "Drafter", "Guard", "PlainDrafter", "Round", "Step"]

Choose = Callable[[NDArray[np.float32], SequenceOf[int]], int]
"""(logits [V], tokens so far) -> the next token, as `Sampler.choose`."""

Accept = Callable[[Draft, NDArray[np.float32]], list[int]]
"""(draft, logits [1 + N, V]) -> the tokens to emit: a path of the draft and one token of the model's own."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one model call showed. `logits` [1 + N, V] follow the rows of the draft and are valid during `observe` only.

    `token_ids` were emitted; `rows` are those of the tokens that stay in the cache: row 0 and the accepted guesses.
    `pending_id` was fed in row 0. `model_s` is the time of the call, which is shorter where the first stages of the
    model had seen `num_peeked` of its rows before.
    """

    draft: Draft
    pending_id: int
    token_ids: list[int]
    rows: list[int]
    logits: NDArray[np.float32]
    model_s: float = 0.0
    num_peeked: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one model call gave. `logits` [len(token_ids), V] are valid until the next step.

    The first `num_accepted` tokens were guessed by `drafter`. The times, in seconds, are those of drafting, which is
    proposing and learning, of the model call, and of choosing and keeping tokens. `depth` is the number of layers that
    made the tokens; None is all of them. `waited_s` is how long the tokens lay, once made, before they were given out.
    A step of a method that tries several texts took `num_calls`.
    """

    token_ids: list[int]
    logits: NDArray[np.float32]
    num_drafted: int
    num_accepted: int
    drafter: str
    draft_s: float
    model_s: float
    accept_s: float
    depth: int | None = None
    waited_s: float = 0.0
    num_calls: int = 1


class Drafter(Protocol):
    """Guesses what comes next, from the text alone or with means of its own; made for one text.

    The text is the same whatever it guesses. `name` stands in reports. `reading_share` is what reading a token of the
    text costs before the first guess, as a share of a plain step. `peeks`: whether its guesses run the first stages of
    the target, so that the call after them is shorter. Who inherits from this needs `propose` only.
    """

    name: str
    reading_share: float = 0.0
    peeks: bool = False

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
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

    def finish(self, history: SequenceOf[int]) -> None:
        """Keep what should outlive the text, which has ended or been left; `history` is all of it."""
        return None


class PlainDrafter(Drafter):
    """Guesses nothing: one token per model call."""

    name = "plain"

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        return Draft.empty()


class Guard:
    """Asks a drafter for drafts of one text. One that raises, or proposes nonsense, is not asked again, and said so."""

    def __init__(self, drafter: Drafter, sequence: Sequence) -> None:
        self._drafter, self._sequence = drafter, sequence
        self._has_room = sequence.draft_room > 0  # else nothing is asked or shown, so that it costs nothing

    @property
    def name(self) -> str:
        """The drafter's, or `plain` after a failure."""
        return self._drafter.name

    @property
    def reading_share(self) -> float:
        """What reading a token of the text costs the drafter, as a share of a plain step."""
        return getattr(self._drafter, "reading_share", 0.0)  # of another package, which may not inherit

    @property
    def peeks(self) -> bool:
        """Whether the drafter's guesses run the first stages of the target."""
        return getattr(self._drafter, "peeks", False)  # as above

    def prior(self, level: int) -> float:
        """Return the drafter's chance for a level that was never tried."""
        return self._drafter.prior(level)

    def propose(self, limit: int, *, min_chance: float = 0.0) -> Draft:
        """Return a draft of at most `limit` tokens that the model can verify; empty after a failure."""
        room = self._sequence.draft_room
        limit, self._has_room = min(limit, room), room > 0
        if limit < 1:
            return Draft.empty()
        try:
            draft = self._drafter.propose(self._sequence.token_ids, limit=limit, min_chance=min_chance)
            self._check(draft, limit)
        except Exception as error:  # whatever a drafter does wrong, the text is not touched by it
            self._leave_out(error)
            return Draft.empty()
        return draft

    def observe(self, seen: Round) -> None:
        """Show the drafter what the call gave, unless no draft could be verified there."""
        if not self._has_room:
            return
        try:
            self._drafter.observe(seen)
        except Exception as error:  # as above
            self._leave_out(error)

    def finish(self) -> None:
        """Let the drafter keep what should outlive the text."""
        try:
            self._drafter.finish(self._sequence.token_ids)
        except Exception as error:  # as above
            self._leave_out(error)

    def _check(self, draft: Draft, limit: int) -> None:
        if len(draft) > limit:
            raise ConfigError(f"{len(draft)} tokens proposed, {limit} were asked for")
        self._sequence.require_feedable(draft)

    def _leave_out(self, error: Exception) -> None:
        name = getattr(self._drafter, "name", type(self._drafter).__name__)
        self._drafter = PlainDrafter()
        warnings.warn(
            f"drafter {name} failed and is left out for the rest of this text, which stays the same: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
