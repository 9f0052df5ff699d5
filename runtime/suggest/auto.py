"""Auto: the way that has hit most for the time it takes here."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from skipstone.runtime.costs import ROUGH_ROW
from skipstone.runtime.engine import Sequence
from skipstone.runtime.suggest.branch import branch
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.superposed import superposed

__all__ = ["WayChoice", "auto", "choose_way"]

WITH_NGRAMS: Final = "superposed with n-grams"
HITS: Final = MappingProxyType({"branch": 0.121, "superposed": 0.117, WITH_NGRAMS: 0.080})
"""Share of held-out prefixes of which one of three drafts has the next five tokens: docs/suggest.md, both models."""
WAYS: Final = MappingProxyType({"branch": branch, "superposed": superposed})


@dataclass(frozen=True, slots=True, kw_only=True)
class WayChoice:
    """The way that is taken, whether with the n-grams that there are, and the reason in a few words."""

    name: str
    reason: str
    uses_ngrams: bool = False


def auto(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
    """Make drafts in the way that `choose_way` names."""
    choice = choose_way(sequence, request)
    request = request if choice.uses_ngrams else replace(request, ngrams=None)
    return (yield from WAYS[choice.name](sequence, request))


def choose_way(sequence: Sequence, request: SuggestRequest) -> WayChoice:
    """Return which way `auto` takes: where two can be taken, the one with the most hits for its time.

    Hits were measured once and stand in `HITS`. Time is that of the model calls by the device's cost curve where that
    was measured, else by a rough one: a call of k rows for each token of k branches, of one row for superposed drafts.
    """
    if not request.sampling.greedy:
        return WayChoice(name="branch", reason="superposed drafts are never drawn")
    if not sequence.takes_blends:
        return WayChoice(name="branch", reason="this bundle takes no blends")
    if request.num_drafts == 1:
        return WayChoice(name="branch", reason="a single draft is the greedy text in either way")
    prices = _prices(sequence, request)
    known = [name for name in HITS if name != WITH_NGRAMS or request.ngrams is not None]
    best = max(known, key=lambda name: HITS[name] / prices[name])
    told = ", ".join(f"{name} {HITS[name]:.1%} at {prices[name]:.2f} x a greedy pass" for name in known)
    source = "the cost curve" if request.costs is not None else "rough costs"
    reason = f"most hits for its time by {source}: {told}"
    return WayChoice(name=best.partition(" ")[0], reason=reason, uses_ngrams=best == WITH_NGRAMS)


def _prices(sequence: Sequence, request: SuggestRequest) -> dict[str, float]:
    """Return what each way takes, in passes of one draft."""
    num_drafts, num_tokens = request.num_drafts, request.max_new_tokens
    if not sequence.takes_trees and not sequence.takes_batches:
        rows = float(num_drafts)  # one after the other
    elif request.costs is None:
        rows = 1 + ROUGH_ROW * (num_drafts - 1)
    else:
        _, one, *others = request.costs.costs(len(sequence.token_ids), max_rows=num_drafts)
        rows = [one, *others][-1] / one
    return {"branch": (1 + (num_tokens - 1) * rows) / num_tokens, "superposed": 1.0, WITH_NGRAMS: 1.0}
