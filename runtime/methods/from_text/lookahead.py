"""Guess n-grams that the model made up beside the text, in rows spent on tokens further ahead."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, Round
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DrafterContext, Method

__all__ = ["METHOD", "LookaheadDrafter", "NgramPool", "open_lookahead"]

WINDOW = 3
NGRAM = 3
NUM_GUESSES = 2
# The level of a guess that only fills the window; next to never right.
WINDOW_LEVEL = 0
WINDOW_CHANCE = 0.03
POOL_CHANCE = 0.5


class NgramPool:
    """For each token the `num_guesses` runs of `size - 1` tokens that last followed it, newest first."""

    def __init__(self, *, size: int, num_guesses: int) -> None:
        self.size, self._num_guesses = size, num_guesses
        self._runs: dict[int, list[tuple[int, ...]]] = {}

    def add(self, ngram: Sequence[int]) -> None:
        """Put an n-gram first among those that start with the same token; the oldest falls out."""
        runs, run = self._runs.setdefault(ngram[0], []), tuple(ngram[1:])
        if run in runs:
            runs.remove(run)
        runs.insert(0, run)
        del runs[self._num_guesses :]

    def runs(self, token_id: int) -> list[tuple[int, ...]]:
        """Return what followed a token, newest first."""
        return self._runs.get(token_id, [])


class TreeBuilder:
    """Rows of a draft under construction; a guess that is there already is not added again."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], int] = {}
        self._levels: list[int] = []

    def add(self, parent: int, token_id: int, level: int) -> int:
        """Return the row of a guess after row `parent`; one that is new comes last and gets the level."""
        row = self._rows.setdefault((parent, token_id), len(self._rows) + 1)
        if row > len(self._levels):
            self._levels.append(level)
        return row

    def draft(self, limit: int, source: str) -> Draft:
        """Return the first `limit` guesses."""
        guesses = list(self._rows)[:limit]
        return Draft(
            tuple(token_id for _, token_id in guesses),
            source,
            tuple(parent for parent, _ in guesses),
            tuple(self._levels[:limit]),
        )

    def __len__(self) -> int:
        return len(self._rows)


class LookaheadDrafter(Drafter):
    """Guesses n-grams that start with the pending token, from a pool that a window of further rows fills.

    The pool holds the n-grams of the text, and those that the model makes up in the window: W columns of N - 1
    tokens each, a guess at what stands some tokens ahead. The likeliest token behind a column makes it an n-gram; then
    the column loses its first token and gains this one (a step of Jacobi iteration). New columns are copied from the
    text, each from where the last one ended. A column that comes to a stop token is given up.

    Rows, in this order: G runs of N - 1 from the pool behind row 0; then the window, a comb. Its spine is the first
    tokens of the columns, one after the other from row 0; the rest of a column hangs from its place on the spine:

        pending - a1 - a2 - a3      columns (a1, b1), (a2, b2), (a3, b3) for W = 3, N = 3
                  |    |    |
                  b1   b2   b3

    So a row sees the spine up to its column, and its own column, as in the paper. A guess of pool and window shares
    a row. Level 0 is a guess of the window only, next to never right; the others tell run and depth.

    Cost: up to 1 + (N - 1) * (G + W) rows, 11 by default, and 50 microseconds. On pebble at temperature 0.8 it made
    1.67 tokens a call with 8 rows; the n-grams of the text alone made 1.53 with 3 rows. So it is rarely worth its rows
    on a CPU; it is for devices where rows are free. Where `limit` leaves no room for the whole window, the pool alone
    guesses and the window waits.

    Source: lookahead decoding (Fu et al., 2024), whose code takes W = 7, N = 5, G = 7: 57 rows.
    """

    name = "lookahead"

    def __init__(
        self,
        *,
        stop_ids: Collection[int] = (),
        window: int = WINDOW,
        ngram: int = NGRAM,
        num_guesses: int = NUM_GUESSES,
    ) -> None:
        if window < 1 or ngram < 2 or num_guesses < 1:
            raise ConfigError(
                f"lookahead wants a window from 1, n-grams from 2 and guesses from 1, got {window}, {ngram}, "
                f"{num_guesses}"
            )
        self._pool = NgramPool(size=ngram, num_guesses=num_guesses)
        self._stop_ids, self._window = frozenset(stop_ids), window
        self._columns: list[tuple[int, ...]] = []
        self._tips: list[int] = []  # the rows of the last tokens of the columns, in `_draft`
        self._draft = Draft.empty()
        self._num_read = 0
        self._copied = 0

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        """Return the runs that followed the pending token, and the window where it fits into `limit` as well."""
        self._read(history)
        tree = TreeBuilder()
        for rank, run in enumerate(self._pool.runs(history[-1])):
            row = 0
            for depth, token_id in enumerate(run):
                row = tree.add(row, token_id, WINDOW_LEVEL + 1 + rank * len(run) + depth)
        num_from_pool = len(tree)
        tips = self._add_window(tree, history)
        fits = len(tree) <= limit
        self._tips = tips if fits else []
        self._draft = tree.draft(limit if fits else min(limit, num_from_pool), self.name)
        return self._draft

    def prior(self, level: int) -> float:
        """Return the chance of a guess of the window, or of the pool."""
        return WINDOW_CHANCE if level == WINDOW_LEVEL else POOL_CHANCE

    def observe(self, seen: Round) -> None:
        """Put what stands behind each column into the pool, and move the window on as far as the text has come."""
        if seen.draft is not self._draft or not self._tips:
            return  # some of the rows were left out, or all
        likeliest = seen.logits[self._tips].argmax(axis=1).tolist()
        moved = []
        for column, token_id in zip(self._columns, likeliest, strict=True):
            ngram = (*column, token_id)
            self._pool.add(ngram)
            moved.append(ngram[1:])
        # A column has come one place further by its new token.
        num_passed = len(seen.token_ids) - 1
        self._columns = [column for column in moved[num_passed:] if column[-1] not in self._stop_ids]

    def _read(self, history: Sequence[int]) -> None:
        """Put the n-grams that the text has gained into the pool."""
        size = self._pool.size
        for start in range(max(self._num_read - size + 1, 0), len(history) - size + 1):
            self._pool.add(history[start : start + size])
        self._num_read = len(history)

    def _add_window(self, tree: TreeBuilder, history: Sequence[int]) -> list[int]:
        """Return the rows of the last tokens of the columns, of which there are W from here on."""
        while len(self._columns) < self._window:
            places = range(self._copied, self._copied + self._pool.size - 1)
            self._columns.append(tuple(history[place % len(history)] for place in places))
            self._copied = places.stop
        tips, spine = [], 0
        for first, *rest in self._columns:
            row = spine = tree.add(spine, first, WINDOW_LEVEL)
            for token_id in rest:
                row = tree.add(row, token_id, WINDOW_LEVEL)
            tips.append(row)
        return tips


def open_lookahead(context: DrafterContext) -> LookaheadDrafter:
    """Return a drafter for one text. Raises: ConfigError where drafts may not branch."""
    if not context.trees:
        raise ConfigError("lookahead needs drafts that branch, which this sequence does not take; use jacobi")
    if context.rule != "match":
        raise ConfigError(f"lookahead has no laws of its guesses, which the rule {context.rule} needs; use match")
    return LookaheadDrafter(stop_ids=context.model.manifest.stop_ids)


METHOD = Method(name="lookahead", drafts=open_lookahead, needs_trees=True, chain_method="jacobi", usual_rows=11)
