"""Where keys and values of past tokens live: one buffer per layer, written in place by the attention nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Buffer, Device
from skipstone.runtime.bundle import LayerCache

__all__ = ["KVCache"]

SPARE_ROWS = 2


class KVCache:
    """Keys and values [B, K, C, D] per layer; which of the C rows count is known by whoever passes the lengths.

    Nothing is cleared: a row beyond the length is never read, and the next call overwrites it. Two rows are for what
    a call feeds beside its tokens.
    """

    def __init__(self, layers: Sequence[tuple[Buffer, Buffer]]) -> None:
        self.layers = tuple(layers)

    def __iter__(self) -> Iterator[Buffer]:
        """Yield the buffers: keys of the first layer, its values, and so on."""
        for layer in self.layers:
            yield from layer

    @classmethod
    def allocate(cls, layers: Sequence[LayerCache], device: Device, *, capacity: int, batch: int = 1) -> KVCache:
        """Return buffers for `capacity` tokens; memory that is never written is never taken from the system."""

        def buffer(layer: LayerCache) -> Buffer:
            return device.allocate((batch, layer.num_heads, capacity + SPARE_ROWS, layer.head_size), layer.dtype)

        return cls([(buffer(layer), buffer(layer)) for layer in layers])

    @property
    def capacity(self) -> int:
        """How many tokens of one sequence fit."""
        return self.num_rows - SPARE_ROWS

    @property
    def num_rows(self) -> int:
        """How many rows there are, for tokens and for what calls feed beside them."""
        return self.layers[0][0].shape[2]

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    def named(self, name: str) -> Buffer:
        """Return the buffer of a graph's tensor called past_key_3, present_value_3 and so on."""
        _, kind, layer = name.split("_")
        key, value = self.layers[int(layer)]
        return key if kind == "key" else value

    def row(self, index: int) -> KVCache:
        """Return the cache of one sequence of the batch: the same memory, [1, K, C, D]."""
        at = slice(index, index + 1)
        return KVCache([(key.view(at), value.view(at)) for key, value in self.layers])

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Return what the last layer keeps as values in some rows of the first text, [rows, K * D]."""
        _, buffer = self.layers[-1]
        kept = buffer.read()[0, :, rows].swapaxes(0, 1)
        return kept.reshape(len(kept), -1).astype(np.float32)

    def copy_from(self, other: KVCache, length: int) -> None:
        """Take over the first `length` rows of `other`."""
        for mine, theirs in zip(self, other, strict=True):
            mine.copy_from(theirs, np.s_[:, :, :length])

    def move(self, rows: Sequence[int], *, start: int) -> None:
        """Put the cached `rows`, which rise, one behind the other from row `start` on."""
        moved = [(to, row) for to, row in enumerate(rows, start=start) if to != row]
        if moved:
            target, source = moved[0][0], [row for _, row in moved]
            for buffer in self:
                buffer.move(np.s_[:, :, source], np.s_[:, :, target : target + len(source)])
