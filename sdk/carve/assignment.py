"""Items given to groups of equal size, so that the costs are small.

Shapes: N items, R groups of N / R items each.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["balanced"]

Floats: TypeAlias = NDArray[np.floating]
Groups: TypeAlias = NDArray[np.int64]
_ROUNDS: Final = 4
_LEAST_GAIN: Final = 1e-6


def balanced(costs: Floats) -> Groups:
    """Return the group of each item [N], N / R items in each group, for costs [N, R].

    Items that have most to lose choose first; then pairs of groups exchange what both gain by, which leaves each pair
    as good as it can be. Cost: O(R * N log N) for each of a few rounds.
    """
    groups = _greedy(costs)
    for _ in range(_ROUNDS):
        if not _exchange(costs, groups):
            break
    return groups


def _greedy(costs: Floats) -> Groups:
    count, num_groups = costs.shape
    left = np.full(num_groups, count // num_groups)
    assert left.sum() == count, "groups are of equal size"
    groups = np.empty(count, np.int64)
    likes = np.argsort(costs, axis=1, kind="stable")
    regrets = np.take_along_axis(costs, likes[:, :2], axis=1) if num_groups > 1 else costs
    for item in np.argsort(regrets[:, 0] - regrets[:, -1], kind="stable"):
        group = next(group for group in likes[item] if left[group])
        groups[item] = group
        left[group] -= 1
    return groups


def _exchange(costs: Floats, groups: Groups) -> bool:
    """Let each pair of groups exchange items, in place; return whether any did."""
    exchanged = False
    for first, second in combinations(range(costs.shape[1]), 2):
        ours, theirs = np.flatnonzero(groups == first), np.flatnonzero(groups == second)
        gains = costs[:, first] - costs[:, second]
        ours, theirs = (ours[np.argsort(-gains[ours], kind="stable")], theirs[np.argsort(gains[theirs], kind="stable")])
        count = int((gains[ours] - gains[theirs] > _LEAST_GAIN).sum())
        groups[ours[:count]], groups[theirs[:count]] = second, first
        exchanged |= count > 0
    return exchanged
