"""The levels of active experts of a bundle, and the share that a budget allows."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Final

from skipstone.activate.budget import ActiveBudget
from skipstone.activate.known import KnownLosses
from skipstone.activate.reader import Counts, Reader
from skipstone.activate.search import Search
from skipstone.activate.times import StepLine
from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import spread, text_windows
from skipstone.runtime.methods.experts import EXPERTS, ActiveLevel, ActiveLevels, all_counts, least_counts, share_of

__all__ = ["SHARES", "find_levels"]

SHARES: Final = (0.25, 0.5, 0.75)
FEW_TOKENS: Final = 256


def find_levels(
    model: Model,
    texts: SequenceOf[str],
    *,
    budget: ActiveBudget | None = None,
    shares: SequenceOf[float] = SHARES,
    seed: int = 0,
    on_progress: Callable[[float], None] = lambda share: None,
) -> ActiveLevels:
    """Return how many experts of each layer to run at some shares of all, and at the one that a budget allows.

    Some 2,048 tokens spread over the texts are read; layers alone and offspring are judged by 256 of them. What an
    interrupted search has measured counts. Cost: three readings of 256 tokens for each layer, then 18 and seven of
    2,048 for each level. Raises: ConfigError for a bundle without experts, a text that is too short, and a budget that
    no share keeps.
    """
    if not EXPERTS.is_met(model):
        raise ConfigError(f"the search for active experts {EXPERTS.lack}; {EXPERTS.remedy}")
    windows = _halves(spread(text_windows(model, texts)))
    reader, known = Reader(model, windows), KnownLosses.of(model.manifest, windows)
    search = Search(
        least_counts(model.manifest),
        all_counts(model.manifest),
        lambda counts, num_windows: known.kl(counts, num_windows, reader.kl),
        num_windows=len(windows),
        few=reader.num_windows_with(FEW_TOKENS),
        seed=seed,
        on_progress=on_progress,
        num_levels=len(shares) + (budget is not None),
    )
    search.measure_layers()
    chosen = None if budget is None else search.refined(_allowed(model, search, budget))
    found = dict(search.refined(search.first(share)) for share in shares if search.least_share < share < 1)
    found |= {} if chosen is None else dict([chosen])
    known.forget()
    levels = [ActiveLevel(share=share_of(counts, model.manifest), counts=counts, kl=kl) for counts, kl in found.items()]
    return ActiveLevels(
        num_tokens=reader.num_tokens(len(windows)),
        levels=tuple(sorted(levels, key=lambda level: level.share)),
        budget="" if budget is None else str(budget),
        chosen=None if chosen is None else share_of(chosen[0], model.manifest),
    )


def _halves(windows: SequenceOf[list[int]]) -> list[list[int]]:
    """Return windows of half the size, so that what is judged by few comes from more places."""
    return [half for window in windows for half in (window[: len(window) // 2], window[len(window) // 2 :])]


def _allowed(model: Model, search: Search, budget: ActiveBudget) -> Counts:
    """Return the first counts of the share that a budget allows: the least by KL, the most by time."""
    if budget.unit == "kl":
        return search.within(budget.amount)
    line = StepLine.measure(model)
    share = line.share(budget.amount)
    if share < search.least_share:
        raise ConfigError(
            f"--budget {budget} is below what a token takes with the fewest experts here, "
            f"{line.ms(search.least_share):.3g} ms: give more"
        )
    return search.first(min(share, 1.0))
