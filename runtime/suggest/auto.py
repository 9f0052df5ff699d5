"""Auto: the way whose drafts were measured to be best, of those that do not take too long here."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from skipstone.runtime.costs import ROUGH_ROW
from skipstone.runtime.engine import Sequence
from skipstone.runtime.suggest.beam import beam
from skipstone.runtime.suggest.branch import branch
from skipstone.runtime.suggest.diverse import diverse
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.superposed import superposed

__all__ = ["Measured", "WayChoice", "auto", "choose_way"]

LONGEST: Final = 2.0
"""What all drafts together may take, in passes of one draft."""
HITS_ERROR: Final = 0.02
"""The standard error of a share of some 15 % of 300 prefixes: nearer ones are not told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What docs/suggest.md says of a way with three drafts, the mean over its two models.

    `hits`: share of prefixes of which a draft has the next five tokens. `distinct`: how many drafts differ within their
    first five tokens. `one_row`: a call has one row for all drafts.
    """

    hits: float
    distinct: float
    one_row: bool = False


MEASURED: Final = MappingProxyType(
    {
        "branch": Measured(hits=0.102, distinct=3.0),
        "beam": Measured(hits=0.113, distinct=1.6),
        "diverse": Measured(hits=0.113, distinct=2.4),
        "superposed": Measured(hits=0.095, distinct=2.0, one_row=True),
    }
)
WAYS: Final = MappingProxyType({"branch": branch, "beam": beam, "diverse": diverse, "superposed": superposed})


@dataclass(frozen=True, slots=True, kw_only=True)
class WayChoice:
    """The way that is taken, and the reason in a few words."""

    name: str
    reason: str


def auto(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
    """Make drafts in the way that `choose_way` names."""
    return (yield from WAYS[choose_way(sequence, request).name](sequence, request))


def choose_way(sequence: Sequence, request: SuggestRequest) -> WayChoice:
    """Return which way `auto` takes.

    N-grams that are given are used by superposed drafts only, so these are taken then. Else ways that take longer than
    two passes of one draft are left out, by the device's cost curve where it was measured, or by a rough one. Of the
    others those stay whose measured hits are within the error of the best, and of these the one whose drafts differ
    most is taken.
    """
    if not request.sampling.greedy:
        return WayChoice(name="branch", reason="it is the way that draws")
    if request.sampling.processors and request.ngrams is None:
        return WayChoice(name="branch", reason="it asks the processors about each draft")
    if not sequence.takes_blends:
        return WayChoice(name="branch", reason="this bundle takes no blends")
    if request.ngrams is not None:
        return WayChoice(name="superposed", reason="it is the way that uses n-grams")
    if request.num_drafts == 1:
        return WayChoice(name="branch", reason="a single draft is the greedy text in each way")
    price = _price_of_branches(sequence, request)
    prices = {name: 1.0 if row.one_row else price for name, row in MEASURED.items()}
    source = "the cost curve" if request.costs is not None else "rough costs"
    reason = f"by {source}, {request.num_drafts} branches take {price:.2f} x a greedy pass, and may take {LONGEST:g} x"
    return WayChoice(name=_best(prices), reason=reason)


def _best(prices: Mapping[str, float]) -> str:
    """Return the best of some rows of the table, given what each takes."""
    quick = [name for name, price in prices.items() if price <= LONGEST]
    most_hits = max(MEASURED[name].hits for name in quick)
    good = [name for name in quick if MEASURED[name].hits >= most_hits - HITS_ERROR]
    return max(good, key=lambda name: MEASURED[name].distinct)


def _price_of_branches(sequence: Sequence, request: SuggestRequest) -> float:
    """Return what k branches take, in passes of one: the first token is read once for all."""
    num_drafts, num_tokens = request.num_drafts, request.max_new_tokens
    if not sequence.takes_trees and not sequence.takes_batches:
        step = float(num_drafts)  # one after the other
    elif request.costs is None:
        step = 1 + ROUGH_ROW * (num_drafts - 1)
    else:
        costs = request.costs.costs(len(sequence.token_ids), max_rows=num_drafts)
        step = costs[num_drafts] / costs[1]
    return (1 + (num_tokens - 1) * step) / num_tokens
