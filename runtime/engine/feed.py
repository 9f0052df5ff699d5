"""What goes into a model call: tokens, their places, which graphs run, and who sees whom among the rows.

Shapes: B batch, T positions, W tokens that are blended at a position, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine.draft import Draft

__all__ = ["WHOLE", "Blends", "Feed", "Part", "TreeMask"]

HIDDEN = -1e9  # of a score that softmax turns into exactly 0


@dataclass(frozen=True, slots=True)
class Part:
    """Which graphs a call runs: `stages` by number, ascending, None for all, then the head or not.

    `exit` is the number of stages after which the head reads, for whose states the bundle may have an adapter; None is
    all of them. A `pruned` head is the one for drafts, which knows a part of the vocabulary and takes one row.
    `variant` is the kind of other graphs that run in place of the plain ones, such as `sparse`, over the same cache.
    `active` is how many experts of each layer of the model run there.
    """

    stages: range | tuple[int, ...] | None = None
    head: bool = True
    exit: int | None = None
    pruned: bool = False
    variant: str = ""
    active: tuple[int, ...] = ()


WHOLE = Part()


class TreeMask:
    """Who sees whom among the last rows of a text: each row [T] sees the text, its ancestors and itself."""

    def __init__(self, depths: NDArray[np.int64], hidden: NDArray[np.float32]) -> None:
        """`depths` [T] are the rows' positions, counted from how many rows are cached; `hidden` [T, M] hides some of
        the last M rows, the T among them."""
        self.depths, self._hidden = depths, hidden

    @classmethod
    def of(cls, draft: Draft) -> TreeMask:
        """Return that of a draft: a row sees the guesses that lead to it."""
        depths = np.array(draft.depths())
        hidden = np.full((len(depths),) * 2, HIDDEN, np.float32)
        hidden[0, 0] = 0
        for row, parent in enumerate(draft.parents, start=1):
            hidden[row] = hidden[parent]
            hidden[row, row] = 0
        return cls(depths, hidden)

    def bias(self, total: int) -> NDArray[np.float32]:
        """Return what is added to attention scores [T, total]; the rows are the last of `total`."""
        bias = np.zeros((len(self.depths), total), np.float32)
        bias[:, -self._hidden.shape[1] :] = self._hidden
        return bias


@dataclass(frozen=True, slots=True, eq=False)
class Blends:
    """Positions that are each a blend of tokens: the sum of their embeddings [T, W], each times its weight [T, W].

    Raises: ConfigError for other shapes, no position, or weights that are no numbers.
    """

    token_ids: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 2 or not self.token_ids.size or self.token_ids.shape != self.weights.shape:
            shapes = f"{list(self.token_ids.shape)} and {list(self.weights.shape)}"
            raise ConfigError(f"blends are token ids and weights of one shape [positions, tokens], got {shapes}")
        if not np.isfinite(self.weights).all():
            raise ConfigError("a weight of a blend is no finite number")

    @classmethod
    def of(cls, token_ids: ArrayLike, weights: ArrayLike) -> Blends:
        return cls(np.asarray(token_ids, np.int64), np.asarray(weights, np.float32))

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(slots=True, eq=False)
class Feed:
    """The input of one model call.

    Each of B texts gets T positions behind its `lengths` [B] cached rows. A position is one token, or a blend of the W
    `token_ids` [B, T, W] by `weights` [B, T, W]; one token needs no weight. `rows` are the numbers, over B * T, of the
    positions whose logits are wanted, one maybe twice. `starts` [B] are the first positions, rows of the rotary tables;
    by default as many as are cached. Without a `tree` each position follows the one before it. `hidden` [B, T, E] is
    what a later part of a model reads. With `alone` attention takes a single position as it is, which is quicker, and
    rounds its last bits in another way than among others. Texts without cached rows may be of unlike lengths: of the T
    positions of a text the first `sizes` [B] are its own, and nobody reads what comes of the others.
    """

    token_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: range | tuple[int, ...]
    starts: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    tree: TreeMask | None = None
    hidden: NDArray[np.float32] | None = None
    alone: bool = False
    sizes: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        token_ids: ArrayLike,
        *,
        rows: range | tuple[int, ...] = range(0),
        length: int = 0,
        hidden: NDArray[np.float32] | None = None,
        alone: bool = False,
    ) -> Feed:
        """Return the feed of one text: tokens [T] behind `length` cached ones."""
        tokens = np.asarray(token_ids, np.int64)[None, :, None]
        return cls(tokens, np.asarray([length]), rows, hidden=hidden, alone=alone)
