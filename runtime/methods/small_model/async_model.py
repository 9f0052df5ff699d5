"""Guess with a small model that guesses on while the target verifies: for two devices with memory of their own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, ModelDrafter, Round
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DRAFT_MODEL, DrafterContext, Method
from skipstone.runtime.methods.small_model.follower import drafter_of, follower_of
from skipstone.runtime.methods.small_model.run_ahead import RunAhead
from skipstone.runtime.sampling import picker_for

__all__ = ["METHOD", "AsyncDrafter", "open_async"]


class AsyncDrafter(Drafter):
    """Drafts the chains of `model`, each begun while the call before it still runs.

    The draft model goes on behind its own draft, as if all of it were accepted and the target's token were the one that
    it expects. Where that comes true the next draft is there, or half done, when it is asked for; where not, it begins
    anew, as `model` does each time.
    """

    name = "async-model"

    def __init__(self, drafter: ModelDrafter, ahead: RunAhead) -> None:
        """`drafter` takes its guesses from `ahead`."""
        self._drafter, self._ahead = drafter, ahead
        self._is_told = False  # whether the last round began with the text as it was told
        weakref.finalize(self, ahead.close)  # where nobody calls `finish`, and at the end of the program

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self._is_told = True
        return self._drafter.propose(history, limit=limit, min_chance=min_chance)

    def prior(self, level: int) -> float:
        return self._drafter.prior(level)

    def observe(self, seen: Round) -> None:
        if self._is_told:
            self._ahead.tell(seen.token_ids)
        self._is_told = False
        self._drafter.observe(seen)

    def finish(self, history: Sequence[int]) -> None:
        self._ahead.close()


def open_async(context: DrafterContext) -> AsyncDrafter:
    """Return a drafter of chains for one text.

    Raises: ConfigError when the bundle has no small model with the target's tokenizer, and for rules that need drafts
    drawn by chance: how far such a draft comes in time would decide what the seed gives.
    """
    if context.rule != "match" and not context.sampler.greedy:
        raise ConfigError(
            f"{AsyncDrafter.name} drafts as far as the time allows, so {context.rule} would draw another text each "
            "time; leave verify at match, or use model"
        )
    model = drafter_of(context, AsyncDrafter.name, own_tokenizer=False)
    text, picker = follower_of(context, model), picker_for(context.sampler, context.rule)
    ahead = RunAhead(text, picker)
    drafter = ModelDrafter(ahead, picker, name=AsyncDrafter.name, chain=ahead.guesses, rule=context.rule)
    return AsyncDrafter(drafter, ahead)


METHOD = Method(name=AsyncDrafter.name, needs=(DRAFT_MODEL,), drafts=open_async)
