"""Guessed tokens, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = ["Draft"]


@dataclass(frozen=True, slots=True)
class Draft:
    """Guesses for the tokens after the pending one: a chain, or a tree where several guesses follow one token.

    Rows are those of the model call that verifies: row 0 is the pending token, row i + 1 holds `token_ids[i]`, whose
    parent is row `parents[i]` <= i. No two children of a row hold the same token. An empty draft makes a plain step.

    `levels`, when given, classes the evidence for each guess: guesses of one source and level are accepted about
    equally often. `laws`, when given, are the distributions [V] that the children of each row were drawn from, row by
    row, and `draws` the rows of those children in the order drawn, repeats with them; rules that reject by chance need
    the first, and the second where draws were with replacement. Raises: ConfigError for anything else.
    """

    token_ids: tuple[int, ...]
    source: str
    parents: tuple[int, ...]
    levels: tuple[int, ...] = ()
    laws: tuple[NDArray[np.float64] | None, ...] = ()
    draws: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        size = len(self.token_ids)
        if len(self.parents) != size or (self.levels and len(self.levels) != size):
            raise ConfigError(
                f"a draft of {size} tokens has {len(self.parents)} parents and {len(self.levels)} levels; "
                "each token has one"
            )
        if self.is_chain:
            return
        for index, parent in enumerate(self.parents):
            if not (isinstance(parent, int | np.integer) and 0 <= parent <= index):
                raise ConfigError(f"the parent of row {index + 1} of a draft is {parent}; an earlier row is wanted")
        if len(set(zip(self.parents, self.token_ids, strict=True))) < size:
            raise ConfigError("two guesses of a draft follow the same token and are equal; one is enough")

    @classmethod
    def chain(cls, token_ids: Sequence[int], *, source: str, levels: Sequence[int] = ()) -> Draft:
        """Return guesses that follow each other."""
        return cls(tuple(token_ids), source, tuple(range(len(token_ids))), tuple(levels))

    @classmethod
    def empty(cls) -> Draft:
        return cls((), "plain", ())

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every guess follows the one before it."""
        return self.parents == tuple(range(len(self.token_ids)))

    def depths(self) -> list[int]:
        """Return for each row, the pending token's with them, how many guesses lead to it."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return depths

    def child(self, row: int, token_id: int) -> int | None:
        """Return the row of the guess that `token_id` follows `row`, None when that was not guessed."""
        if row < len(self) and self.parents[row] == row and self.token_ids[row] == token_id:
            return row + 1  # the usual case, and the only one in a chain
        for index, (parent, guess) in enumerate(zip(self.parents, self.token_ids, strict=True)):
            if parent == row and guess == token_id:
                return index + 1
        return None

    def path(self, token_ids: Sequence[int]) -> list[int]:
        """Return the rows that `token_ids` lead through from the pending token: row 0, then guesses that match."""
        rows = [0]
        for token_id in token_ids:
            row = self.child(rows[-1], token_id)
            if row is None:
                break
            rows.append(row)
        return rows

    def keep(self, rows: Sequence[int]) -> Draft:
        """Return the draft of these rows only, which come in order and each with its parent; row 0 is always kept."""
        size = len(rows)
        if size == len(self):
            return self
        if size == 0 or rows[-1] == size:  # the first ones
            laws = self.laws[: size + 1]
            return Draft(self.token_ids[:size], self.source, self.parents[:size], self.levels[:size], laws)
        new_row = {0: 0} | {row: index for index, row in enumerate(rows, start=1)}
        return Draft(
            tuple(self.token_ids[row - 1] for row in rows),
            self.source,
            tuple(new_row[self.parents[row - 1]] for row in rows),
            tuple(self.levels[row - 1] for row in rows) if self.levels else (),
            tuple(self.laws[row] for row in (0, *rows)) if self.laws else (),
        )
