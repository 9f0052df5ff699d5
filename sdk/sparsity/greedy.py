"""How a layer's sparsity is shared out among its products: step by step to where it costs least for what it saves.

Source: TEAL (Liu et al., 2024), block-wise greedy optimization; here a cost is only found anew when it is the least
known, and steps are of equal sparsity, compared by error for the work that they save.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

__all__ = ["Shares", "greedy_path", "shares_at"]

Shares: TypeAlias = Mapping[str, float]
"""By the name of what is masked, which share of its numbers becomes 0."""
_STEP: Final = 0.1


def greedy_path(works: Mapping[str, float], error: Callable[[Shares], float], until: float) -> list[Shares]:
    """Return ever sparser shares, each one step from the one before, until they save so much; all 0 come first.

    `works` is what each of them saves if all of it is 0. Cost: about two errors for each step.
    """
    steps, now = dict.fromkeys(works, 0), error(dict.fromkeys(works, 0.0))
    path: list[Shares] = [_shares(steps)]
    queue = [(float("-inf"), name, -1, 0.0) for name in works]  # cost, name, the step at which it was found, error
    while queue and _saved(path[-1], works) < until:
        _, name, found_at, found = heapq.heappop(queue)
        if found_at != len(path):
            found = error(_shares({**steps, name: steps[name] + 1}))
            heapq.heappush(queue, ((found - now) / works[name], name, len(path), found))
            continue
        steps[name] += 1
        now = found
        path.append(_shares(steps))
        if steps[name] * _STEP < 1 - _STEP / 2:
            heapq.heappush(queue, (float("-inf"), name, -1, 0.0))
    return path


def _shares(steps: Mapping[str, int]) -> Shares:
    return {name: min(1.0, count * _STEP) for name, count in steps.items()}


def _saved(shares: Shares, works: Mapping[str, float]) -> float:
    return sum(share * works[name] for name, share in shares.items())


def shares_at(path: Sequence[Shares], works: Mapping[str, float], saved: float) -> Shares:
    """Return the shares on a path that save so much, between two of its steps where none does."""
    known = [_saved(shares, works) for shares in path]
    return {name: float(np.interp(saved, known, [shares[name] for shares in path])) for name in works}
