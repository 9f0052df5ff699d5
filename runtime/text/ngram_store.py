"""What followed the last few tokens in the user's texts, and how often: counts in a file that is mapped, not read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import BundleError
from skipstone.runtime.bundle import DataError, format_of, parse_json, read_typed, write_whole

__all__ = ["LONGEST_CONTEXT", "Continuations", "NgramHeader", "NgramStore", "NgramTable", "context_hashes"]

MAGIC = b"skipstone n-gram store\n"
FORMAT_VERSION = 1
LONGEST_CONTEXT = 5  # tokens: counts go to order 6
MOST_HEADER_BYTES = 4096
ALIGNMENT = 64
HASH_FACTOR, HASH_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
MAKE_ONE = "make one with `skipstone ngrams`"


class Continuations(NamedTuple):
    """What followed a context: `token_ids` ascending, how often each did, and how often anything did."""

    token_ids: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger]
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class NgramTable:
    """The counts of a store.

    Context number i has the hash `keys[i]`, ascending, and something followed it `totals[i]` times. What did stands
    from `starts[i]` to `starts[i + 1]` of `token_ids`, ascending, and `counts`. Rare continuations may be left out;
    they still count in the total.
    """

    keys: NDArray[np.uint64]
    starts: NDArray[np.unsignedinteger]
    totals: NDArray[np.unsignedinteger]
    token_ids: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramHeader:
    """What a store is made of: the tokenizer it speaks of, the texts, and the least count that was kept."""

    vocabulary: str
    num_tokens: int
    min_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An array in the file."""

    dtype: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The second line of the file, JSON; the arrays follow in this order, each from a multiple of 64 bytes on."""

    format_version: int
    header: NgramHeader
    arrays: tuple[_Entry, ...]


def context_hashes(token_ids: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return the hashes [T, ...] of the contexts that end with the last of `token_ids` [..., T].

    Row i is that of the last i + 1 tokens. Hashes are part of the format.
    """
    num_tokens = token_ids.shape[-1]
    hashes = np.zeros((num_tokens, *token_ids.shape[:-1]), np.uint64)
    state = np.zeros(token_ids.shape[:-1], np.uint64)
    for row in range(num_tokens):
        token = token_ids[..., num_tokens - 1 - row].astype(np.uint64)
        state = (state ^ (token + np.uint64(1))) * HASH_FACTOR
        state ^= state >> HASH_SHIFT
        hashes[row] = state
    return hashes


class NgramStore:
    """Counts of what followed 1 to 5 tokens, of one tokenizer; opened in a millisecond, whatever its size."""

    def __init__(self, table: NgramTable, header: NgramHeader) -> None:
        self.table, self.header = table, header

    @classmethod
    def open(cls, path: Path, *, vocabulary: str | None) -> NgramStore:
        """Map a store. `vocabulary` names the tokenizer: the sha256 of its file; None takes any.

        Raises: BundleError for a file that is no store, that is cut off, or that is of another tokenizer or version.
        """
        file, start = _read_header(path)
        if vocabulary not in (None, file.header.vocabulary):
            raise BundleError(f"{path} was made with another tokenizer; make one for this bundle, `--bundle` names it")
        try:
            content = np.asarray(np.memmap(path, np.uint8, mode="r"))
            arrays = list(_arrays(content, file.arrays, start))
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"{path} is cut off or damaged; {MAKE_ONE} anew") from error
        return cls(NgramTable(*arrays), file.header)

    def continuations(self, context: SequenceOf[int]) -> Continuations | None:
        """Return all that followed the last tokens of a text, 1 to 5 of them; None where nothing is known of it."""
        if not 1 <= len(context) <= LONGEST_CONTEXT:
            return None
        key = context_hashes(np.asarray([context]))[-1, 0]
        number = int(np.searchsorted(self.table.keys, key))
        if number == len(self.table.keys) or self.table.keys[number] != key:
            return None
        start, end = int(self.table.starts[number]), int(self.table.starts[number + 1])
        total = int(self.table.totals[number])
        return Continuations(self.table.token_ids[start:end], self.table.counts[start:end], total)

    def shares(self, contexts: NDArray[np.integer], token_ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return how often each of `token_ids` [N] followed the ends of `contexts` [K, T], as shares [K, T, N].

        [:, i] is for the last i + 1 tokens; 0 where they or the token behind them are unknown. T is 5 at most.
        """
        hashes = np.moveaxis(context_hashes(contexts), 0, -1)
        shares = np.zeros((*hashes.shape, len(token_ids)), np.float32)
        table = self.table
        if not len(table.counts):
            return shares
        numbers = np.minimum(np.searchsorted(table.keys, hashes), len(table.keys) - 1)
        found = np.nonzero(table.keys[numbers] == hashes)
        numbers = numbers[found]
        starts, ends = table.starts[numbers].astype(np.int64), table.starts[numbers + 1].astype(np.int64)
        if (starts >= ends).any() or (ends > len(table.counts)).any():
            raise BundleError("the n-gram store is damaged: what follows a context is not there; count the texts again")
        ids = token_ids.astype(table.token_ids.dtype)  # else every search converts what it looks through
        ranges = zip(starts.tolist(), ends.tolist(), strict=True)
        places = [np.searchsorted(table.token_ids[start:end], ids) for start, end in ranges]
        if places:
            slots = np.minimum(starts[:, None] + np.stack(places), ends[:, None] - 1)
            matches = table.token_ids[slots] == token_ids
            shares[found] = matches * table.counts[slots] / table.totals[numbers][:, None]
        return shares

    def save(self, path: Path) -> int:
        """Write the store, whole or not at all; return its bytes. Raises: OutputError."""
        return write_whole(path, self._pieces())

    def _pieces(self) -> Iterable[bytes]:
        arrays = [_narrow(getattr(self.table, field.name)) for field in fields(NgramTable)]
        entries = [{"dtype": array.dtype.str, "length": len(array)} for array in arrays]
        header = {name.name: getattr(self.header, name.name) for name in fields(NgramHeader)}
        data = {"format_version": FORMAT_VERSION, "header": header, "arrays": entries}
        start = MAGIC + json.dumps(data).encode() + b"\n"
        yield start + bytes(-len(start) % ALIGNMENT)
        for array in arrays:
            yield array.tobytes() + bytes(-array.nbytes % ALIGNMENT)


def _narrow(array: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Return little-endian numbers no wider than the largest of them."""
    dtype = np.min_scalar_type(int(array.max()) if len(array) else 0)
    return array.astype(dtype.newbyteorder("<"), copy=False)


def _read_header(path: Path) -> tuple[_File, int]:
    """Return the header and where the arrays begin. Raises: BundleError."""
    try:
        with path.open("rb") as stream:
            magic, line = stream.readline(len(MAGIC)), stream.readline(MOST_HEADER_BYTES)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; {MAKE_ONE}") from error
    if magic != MAGIC:
        raise BundleError(f"{path} is no n-gram store; {MAKE_ONE}")
    try:
        data = parse_json(line)
        if (version := format_of(data)) != FORMAT_VERSION:
            raise BundleError(f"{path} is a store of format {version}, this version reads {FORMAT_VERSION}; {MAKE_ONE}")
        file = read_typed(_File, data, name="the header")
    except DataError as error:
        raise BundleError(f"{path} is a damaged n-gram store: {error}; {MAKE_ONE} anew") from error
    start = len(magic) + len(line)
    return file, start + -start % ALIGNMENT


def _arrays(content: NDArray[np.uint8], entries: Iterable[_Entry], start: int) -> Iterable[NDArray[np.unsignedinteger]]:
    """Yield the arrays from place `start` on. Raises: ValueError, TypeError where the file holds others."""
    lengths = []
    for entry in entries:
        dtype = np.dtype(entry.dtype)
        if dtype.kind != "u":
            raise ValueError(f"an array of {dtype}")
        end = start + entry.length * dtype.itemsize
        if end > len(content):
            raise ValueError("the file is cut off")
        lengths.append(entry.length)
        yield content[start:end].view(dtype)
        start = end + -end % ALIGNMENT
    num_contexts, num_starts, num_totals, num_ngrams, num_counts = lengths
    if (num_starts, num_totals, num_counts) != (num_contexts + 1, num_contexts, num_ngrams):
        raise ValueError(f"arrays of {lengths}")
