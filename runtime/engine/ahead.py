"""What the first stages of a model have seen ahead of the others: tokens behind the text, and their hidden rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["EarlyRows"]


@dataclass(slots=True)
class EarlyRows:
    """Tokens from place `start` of the text on that only the first `num_stages` stages have seen.

    Invariant: the caches of these stages hold a row more for each of `token_ids`, and `rows` [E] is what the last of
    the stages gave for each: what the next stage reads. The later stages `then` hold rows for them too, computed with
    stages left out between: a guess, which no later call may take for the text's.
    """

    num_stages: int
    start: int
    then: tuple[int, ...] = ()
    token_ids: list[int] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, token_ids: Sequence[int], hidden: NDArray[np.float32]) -> None:
        """Take over what the stages gave for more tokens, `hidden` [T, E] with T at least their number."""
        self.token_ids.extend(token_ids)
        self.rows.extend(hidden[: len(token_ids)].copy())

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        del self.token_ids[length:], self.rows[length:]

    def serves(self, num_stages: int, start: int, then: tuple[int, ...]) -> bool:
        """Return whether more tokens may follow through `num_stages` first stages and the later ones `then`.

        Rows of fewer stages may go on to `num_stages`, but none of those `then` gave.
        """
        same = self.num_stages == num_stages and {*then} <= {*self.then}
        return self.start == start and (same or (self.num_stages < num_stages and not then))

    def num_shared(self, start: int, token_ids: Sequence[int]) -> int:
        """Return how many of the first tokens from place `start` on were seen: they need the early stages no more."""
        same = 0
        if start != self.start:
            return same
        for own, other in zip(self.token_ids, token_ids, strict=False):
            if own != other:
                break
            same += 1
        return same

    def behind(self, num_tokens: int) -> EarlyRows:
        """Return what was seen behind the first `num_tokens`."""
        token_ids, rows = self.token_ids[num_tokens:], self.rows[num_tokens:]
        return EarlyRows(self.num_stages, self.start + num_tokens, self.then, token_ids, rows)
