"""How far two texts agree: what is cached of the one serves the other so far."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["num_shared"]


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two texts share."""
    same = 0
    for token_id, wanted in zip(one, other, strict=False):
        if token_id != wanted:
            break
        same += 1
    return same
