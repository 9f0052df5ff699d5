"""Counting n-grams: texts in, an n-gram store out, in bounded pieces that are sorted and summed."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.text.ngram_store import LONGEST_CONTEXT, NgramHeader, NgramStore, NgramTable, context_hashes

__all__ = ["NgramCounts"]

PIECE = 1 << 20  # tokens that are counted at once, in some 300 MB of memory
HEADER_BYTES = 1024  # at most, with what fills arrays up


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """N-grams by context and token: the hash of each context, how long it is, the token behind it, how often."""

    keys: NDArray[np.uint64]
    lengths: NDArray[np.uint8]
    token_ids: NDArray[np.uint32]
    counts: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    def taken(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> _Rows:
        return _Rows(self.keys[places], self.lengths[places], self.token_ids[places], self.counts[places])

    def summed(self) -> _Rows:
        """Return the rows sorted, equal ones as one with their counts added."""
        rows = self.taken(np.lexsort((self.token_ids, self.keys)))
        first = _starts(rows.keys, rows.token_ids)
        counts = np.add.reduceat(rows.counts, first) if len(first) else rows.counts
        return _Rows(rows.keys[first], rows.lengths[first], rows.token_ids[first], counts)


class NgramCounts:
    """Counts of what followed 1 to 5 tokens in texts that are added one by one.

    Cost: some 10 microseconds a token. Memory: 17 bytes for every different n-gram, a few times over while they are
    put together, and 300 MB for the piece at hand.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self._waiting: list[NDArray[np.uint32]] = []
        self._num_waiting = 0
        self._tables: list[_Rows] = []

    def add(self, token_ids: SequenceOf[int] | NDArray[np.integer]) -> None:
        """Count one text; no n-gram runs from one text into the next."""
        text = np.asarray(token_ids, np.uint32)
        self.num_tokens += len(text)
        for start in range(0, len(text), PIECE):  # a longer text loses the few n-grams across a cut
            self._waiting.append(text[start : start + PIECE])
            self._num_waiting += len(self._waiting[-1])
            if self._num_waiting >= PIECE:
                self._count_waiting()

    def _count_waiting(self) -> None:
        """Count what waits; small tables are put together, so that a row is sorted again only some times."""
        if self._waiting:
            self._tables.append(_rows_of(self._waiting).summed())
            self._waiting, self._num_waiting = [], 0
        while len(self._tables) > 1 and len(self._tables[-2]) < 2 * len(self._tables[-1]):
            self._tables[-2:] = [_joined(self._tables[-2:]).summed()]

    def store(self, *, vocabulary: str, min_count: int = 1, max_bytes: int | None = None) -> NgramStore:
        """Return the counts as a store of the tokenizer that `vocabulary` names.

        N-grams that stood less than `min_count` times are left out, and then, to stay below `max_bytes`, the rarest; of
        equally rare ones those of the highest order first. Raises: ConfigError for a limit that holds nothing.
        """
        if min_count < 1:
            raise ConfigError(f"the least count must be at least 1, got {min_count}")
        self._count_waiting()
        rows = _joined(self._tables).summed()
        first = _starts(rows.keys)
        totals = np.add.reduceat(rows.counts, first) if len(first) else rows.counts
        contexts = np.repeat(np.arange(len(first)), np.diff([*first, len(rows)]))
        kept = rows.counts >= min_count
        if max_bytes is not None:
            kept &= _fitting(rows, contexts, kept, max_bytes)
        table = _table(rows.taken(kept), totals[np.unique(contexts[kept])])
        header = NgramHeader(vocabulary=vocabulary, num_tokens=self.num_tokens, min_count=min_count)
        return NgramStore(table, header)


def _rows_of(texts: list[NDArray[np.uint32]]) -> _Rows:
    """Return every n-gram of some texts once for each time it stands there."""
    tokens = np.concatenate([np.zeros(LONGEST_CONTEXT, np.uint32), *texts])
    ends = np.cumsum([len(text) for text in texts])
    places = np.arange(ends[-1]) - np.repeat([0, *ends[:-1]], [len(text) for text in texts])
    windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], LONGEST_CONTEXT)
    hashes = context_hashes(windows)
    rows = []
    for length, keys in enumerate(hashes, start=1):
        known = places >= length
        behind = tokens[LONGEST_CONTEXT:][known]
        ones = np.ones(len(behind), np.uint32)
        rows.append(_Rows(keys[known], np.full(len(behind), length, np.uint8), behind, ones))
    return _joined(rows)


def _joined(tables: SequenceOf[_Rows]) -> _Rows:
    none = _Rows(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.uint32), np.zeros(0, np.uint32))
    tables = [none, *tables]
    return _Rows(
        np.concatenate([table.keys for table in tables]),
        np.concatenate([table.lengths for table in tables]),
        np.concatenate([table.token_ids for table in tables]),
        np.concatenate([table.counts for table in tables]),
    )


def _starts(*columns: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the places where any of the columns has another value than at the place before."""
    changes = np.zeros(max(len(columns[0]) - 1, 0), bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    return np.flatnonzero(np.concatenate([np.ones(min(len(columns[0]), 1), bool), changes]))


def _fitting(rows: _Rows, contexts: NDArray[np.integer], kept: NDArray[np.bool_], max_bytes: int) -> NDArray[np.bool_]:
    """Return which rows stay so that the file is no larger. Raises: ConfigError where none can."""
    order = np.lexsort((rows.lengths, -rows.counts.astype(np.int64)))  # the most frequent first
    order = order[kept[order]]
    _, newest = np.unique(contexts[order], return_index=True)  # where each context comes in
    total_bytes = np.min_scalar_type(int(rows.counts.sum())).itemsize
    sizes = np.full(
        len(order),
        sum(np.min_scalar_type(int(column.max(initial=0))).itemsize for column in (rows.token_ids, rows.counts)),
    )
    sizes[newest] += 8 + 4 + total_bytes
    num_kept = int(np.searchsorted(np.cumsum(sizes), max_bytes - HEADER_BYTES, side="right"))
    if not num_kept and len(order):
        raise ConfigError(f"a store of {max_bytes} bytes holds no n-gram; allow 100kB or more")
    fitting = np.zeros(len(rows), bool)
    fitting[order[:num_kept]] = True
    return fitting


def _table(rows: _Rows, totals: NDArray[np.integer]) -> NgramTable:
    first = _starts(rows.keys)
    starts = np.concatenate([first, [len(rows)]]).astype(np.uint64)
    return NgramTable(rows.keys[first], starts, totals.astype(np.uint32), rows.token_ids, rows.counts)
