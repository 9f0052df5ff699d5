"""A drafter can never do harm: what it may not propose is refused here, and decoding goes on without it."""

from __future__ import annotations

import warnings

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.drafter import Drafter, PlainDrafter, Round
from skipstone.runtime.engine import Draft, Sequence

__all__ = ["Guard"]


class Guard:
    """Asks a drafter for drafts of one text. One that raises, or proposes nonsense, is not asked again, and said so."""

    def __init__(self, drafter: Drafter, sequence: Sequence) -> None:
        self._drafter, self._sequence = drafter, sequence

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
        limit = min(limit, self._sequence.draft_room)
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
        """Show the drafter what the call gave."""
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
