"""What goes into a model call: which graphs run, and who sees whom among the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.draft import Draft

__all__ = ["WHOLE", "Part", "TreeMask"]

HIDDEN = -1e9  # of a score that softmax turns into exactly 0


@dataclass(frozen=True, slots=True)
class Part:
    """Which graphs a call runs: `stages` by number, ascending, None for all, then the head or not.

    `exit` is the number of stages after which the head reads, for whose states the bundle may have an adapter; None is
    all of them. A `pruned` head is the one for drafts, which knows a part of the vocabulary and takes one row.
    """

    stages: range | tuple[int, ...] | None = None
    head: bool = True
    exit: int | None = None
    pruned: bool = False


WHOLE = Part()


class TreeMask:
    """Who sees whom among the rows of a draft [T]: a row sees the whole text, its ancestors and itself."""

    def __init__(self, draft: Draft) -> None:
        self.depths = np.array(draft.depths())
        self._hidden = np.full((len(self.depths),) * 2, HIDDEN, np.float32)
        self._hidden[0, 0] = 0
        for row, parent in enumerate(draft.parents, start=1):
            self._hidden[row] = self._hidden[parent]
            self._hidden[row, row] = 0

    def write_bias(self, total: int, *, out: NDArray[np.float32]) -> None:
        """Write to `out` what is added to attention scores [T, total]; the rows are the last of `total`."""
        num_rows = len(self.depths)
        bias = out[: num_rows * total].reshape(num_rows, total)
        bias[:, :-num_rows] = 0
        bias[:, -num_rows:] = self._hidden
