"""Several drafters, joined by commas, in order of price: the first that has a guess drafts."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.runtime.decoding import Drafter, Guard, Round
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DrafterContext

__all__ = ["InOrder", "in_order"]


class InOrder(Drafter):
    """Asks one drafter after the other until one proposes something; all learn from every round.

    Source: hierarchy drafting (Cho et al., 2025), its tiers as drafters of their own.
    """

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = tuple(guards)
        self.name = ",".join(guard.name for guard in guards)

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        for guard in self._guards:
            if len(draft := guard.propose(limit, min_chance=min_chance)):
                return draft
        return Draft.empty()

    def observe(self, seen: Round) -> None:
        for guard in self._guards:
            guard.observe(seen)

    def finish(self, history: Sequence[int]) -> None:
        for guard in self._guards:
            guard.finish()


def in_order(context: DrafterContext, drafters: Sequence[Drafter]) -> InOrder:
    """Return one drafter of several, the cheapest first."""
    return InOrder([Guard(drafter, context.sequence) for drafter in drafters])
