"""How a row's bits depend on the rows beside it, on this processor: what to feed so that they do not.

Kernels choose their way by the number of rows. A last bit of attention or of a product then flips the rounding of
activations to 8 bits, and on a real model logits end up to 1 apart. So we look at the bits, and feed by rules where
they differ.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine.feed import Feed
from skipstone.runtime.engine.sessions import Sessions
from skipstone.runtime.engine.workspace import Workspace

__all__ = [
    "ALL_COUNTS",
    "ANY_ROWS",
    "COUNTS",
    "FREE_ROWS",
    "MAX_EXACT_PRICE",
    "NEVER",
    "ROUNDING_CONTEXT",
    "Rounding",
    "RowRule",
    "RowRules",
    "measure_rounding",
]

# Texts give attention a second row by default where that makes a plain step longer by no more than this, in the mean.
MAX_EXACT_PRICE: Final = 0.03
# Numbers of rows that are compared with one more than the last of them; with all of them where float32 is multiplied.
COUNTS, ALL_COUNTS = (1, 3), (1, 2, 3, 5, 7, 8, 11)
_PROMPT = 3
MOST_ADDED: Final = 64
ROUNDING_CONTEXT: Final = _PROMPT + ALL_COUNTS[-1] + 1  # tokens of a workspace that suffices
TIMED_PAIRS: Final = 15
# What a byte of values takes that is copied for a second row of attention, beside a byte of weights that is read:
# 0.5 to 0.8 in models of 14 and 135 M weights behind 128 to 1,000 tokens (docs/decoding.md).
COPIED_BYTE: Final = 0.55
NEVER: Final = 1 << 31
"""More tokens than any text has."""


@dataclass(frozen=True, slots=True)
class RowRule:
    """How many rows are fed: at least so many, and a multiple of that."""

    least: int = 1
    multiple: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.least <= MOST_ADDED and 1 <= self.multiple <= MOST_ADDED):
            raise ConfigError(f"rows are fed by 1 to {MOST_ADDED}, got {self.least} and {self.multiple}")

    def fed(self, num_rows: int) -> int:
        """Return how many rows are fed for so many that are wanted."""
        rows = max(num_rows, self.least if num_rows else 0)
        return rows + -rows % self.multiple


@dataclass(frozen=True, slots=True)
class RowRules:
    """The rule for what the layers are fed, and for the rows whose logits are asked for.

    Behind `alone_from` tokens a single row that the model made goes as it is, without a second one of any kind, and
    may have other bits than among several.
    """

    layers: RowRule = RowRule()
    head: RowRule = RowRule()
    alone_from: int = NEVER

    def __post_init__(self) -> None:
        if self.alone_from < 0:
            raise ConfigError(f"a row is alone from 0 tokens on, got {self.alone_from}")

    @property
    def adds_rows(self) -> bool:
        """Whether more rows are fed than are wanted."""
        return (self.layers, self.head) != (RowRule(), RowRule())


ANY_ROWS: Final = RowRules()
FREE_ROWS: Final = RowRules(alone_from=0)
"""Rows go as they come, and may round as they like."""
_ROW_RULES = (RowRule(), RowRule(2), RowRule(2, 2))
# The cheapest first.
_TRIED: Final = sorted(
    (RowRules(layers, head) for layers in _ROW_RULES for head in _ROW_RULES),
    key=lambda rules: _ROW_RULES.index(rules.layers) + _ROW_RULES.index(rules.head),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """By which rules a row has the same bits however many are fed; None where none was found.

    `price` is by how much they lengthen a plain step: 0.05 is a twentieth. To that comes what attention takes for a
    second row, `attention_price` for each token of the text before it.
    """

    rules: RowRules | None
    price: float
    attention_price: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.price < math.inf and 0 <= self.attention_price < math.inf):
            raise ConfigError(f"prices are 0 or more, got {self.price} and {self.attention_price}")

    @property
    def is_free(self) -> bool:
        """Whether a row has the same bits whatever rows are beside it, so that none is added."""
        return self.rules is not None and not self.rules.adds_rows

    @property
    def exact_until(self) -> int:
        """How long rows follow the rules where nobody says if they should, in tokens: drafts can be verified so far.

        There attention's price is twice what it may be, so from the first token to there it is that in the mean. A
        price that was timed is another one each time, and a text must not depend on it: where rows are added to
        layers or head, it is 0.
        """
        if not self.is_free:
            return 0
        return min(NEVER, int(2 * MAX_EXACT_PRICE / self.attention_price)) if self.attention_price else NEVER

    def price_at(self, num_tokens: int) -> float:
        """Return by how much the rules lengthen a plain step behind so many tokens."""
        return self.price + self.attention_price * num_tokens


def measure_rounding(
    workspace: Workspace, counts: Sequence[int] = COUNTS, *, clock: Callable[[], float] = time.perf_counter
) -> Rounding:
    """Return how rows round in the calls of a workspace, of which so many are tried; its text is lost.

    Cost: four calls of few rows where rows agree; some eighty where rows must be added, as their price is measured.
    """
    most = counts[-1] + 1
    if workspace.cache.capacity <= most:
        return Rounding(rules=None, price=0.0)
    logits = _Logits(workspace, most)
    whole = logits.of(most, range(most))

    def agree(rules: RowRules) -> bool:
        return all(
            _same(whole[:count], logits.of(rules.layers.fed(count), _rows(count, rules.head))) for count in counts
        )

    rules = next((rules for rules in _TRIED if agree(rules)), None)
    if rules is None:
        return Rounding(rules=None, price=0.0)
    price = logits.price(rules, clock) if rules.adds_rows else 0.0
    return Rounding(rules=rules, price=price, attention_price=attention_price(workspace.sessions))


def attention_price(sessions: Sessions) -> float:
    """Return by what share a second row of attention lengthens a plain step, for each token before it.

    Where a row has the same bits alone, as over integers, none is added. With two rows the kernel copies all values,
    for each head of the queries. It is computed, since a measurement takes memory for a long text, and time before the
    first one.
    """
    if not sessions.rounds_single_rows:
        return 0.0
    manifest = sessions.manifest
    num_values = manifest.dimensions.num_heads * sum(layer.head_size for layer in manifest.cache)
    return COPIED_BYTE * 4 * num_values / manifest.total_bytes


def _rows(num_rows: int, rule: RowRule) -> tuple[int, ...]:
    """Return the first rows, the last of them again until there are as many as the rule says."""
    return (*range(num_rows), *(num_rows - 1 for _ in range(rule.fed(num_rows) - num_rows)))


def _same(rows: NDArray[np.float32], logits: NDArray[np.float32]) -> bool:
    return np.array_equal(rows, logits[: len(rows)])


class _Logits:
    """Calls of a few rows behind a short prompt."""

    def __init__(self, workspace: Workspace, most: int) -> None:
        self._workspace = workspace
        vocab_size = workspace.sessions.manifest.dimensions.vocab_size
        self._length = min(_PROMPT, workspace.cache.capacity - most)
        self._token_ids = [(7919 * number + 13) % vocab_size for number in range(self._length + most)]
        self._run(Feed.of(self._token_ids[: self._length], rows=(0,)))

    def of(self, num_rows: int, asked: tuple[int, ...] | range) -> NDArray[np.float32]:
        """Return logits [R, V] of a call of so many rows, for the rows that are asked for."""
        return self._run(self._feed(num_rows, tuple(asked))).copy()

    def price(self, rules: RowRules, clock: Callable[[], float]) -> float:
        """Return by how much the rules lengthen a call of one row: of pairs of calls, the median."""
        feeds = (self._feed(1, (0,)), self._feed(rules.layers.fed(1), _rows(1, rules.head)))
        ratios = []
        for _ in range(TIMED_PAIRS):
            times = []
            for feed in feeds:
                self._run(feed)
                start = clock()
                self._run(feed)
                times.append(clock() - start)
            ratios.append(times[1] / times[0])
        return max(0.0, statistics.median(ratios) - 1)

    def _feed(self, num_rows: int, asked: tuple[int, ...]) -> Feed:
        token_ids = self._token_ids[self._length :][:num_rows]
        return Feed.of(token_ids, rows=asked, length=self._length)

    def _run(self, feed: Feed) -> NDArray[np.float32]:
        return self._workspace.call(feed).run(feed)
