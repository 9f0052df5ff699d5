"""Where keys and values of past tokens live: one buffer per layer, written in place by the attention nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from skipstone.devices import Device
from skipstone.runtime.bundle import LayerCache

__all__ = ["KVCache"]


class KVCache:
    """Keys and values [B, K, C, D] per layer; which of the C rows count is known by whoever passes the lengths.

    Nothing is cleared: a row beyond the length is never read, and the next call overwrites it.
    """

    def __init__(self, layers: Sequence[tuple[ort.OrtValue, ort.OrtValue]]) -> None:
        self.layers = tuple(layers)

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        """All buffers [B, K, C, D] as arrays over the same memory."""
        return tuple(value.numpy() for layer in self.layers for value in layer)

    @classmethod
    def allocate(cls, layers: Sequence[LayerCache], device: Device, *, capacity: int, batch: int = 1) -> KVCache:
        """Return buffers for `capacity` tokens; memory that is never written is never taken from the system."""

        def buffer(layer: LayerCache) -> ort.OrtValue:
            return device.allocate((batch, layer.num_heads, capacity, layer.head_size), layer.dtype)

        return cls([(buffer(layer), buffer(layer)) for layer in layers])

    @property
    def capacity(self) -> int:
        """How many tokens of one sequence fit."""
        return int(self.layers[0][0].shape()[2])

    @property
    def batch(self) -> int:
        return int(self.layers[0][0].shape()[0])

    def row(self, index: int) -> KVCache:
        """Return the cache of one sequence of the batch: the same memory, [1, K, C, D]."""

        def view(value: ort.OrtValue) -> ort.OrtValue:
            return ort.OrtValue.ortvalue_from_numpy(value.numpy()[index : index + 1])

        return KVCache([(view(key), view(value)) for key, value in self.layers])

    def copy_from(self, other: KVCache, length: int) -> None:
        """Take over the first `length` rows of `other`."""
        for mine, theirs in zip(self._arrays, other._arrays, strict=True):
            np.copyto(mine[:, :, :length], theirs[:, :, :length])

    def move(self, rows: Sequence[int], *, start: int) -> None:
        """Put the cached `rows`, which rise, one behind the other from row `start` on."""
        moved = [(to, row) for to, row in enumerate(rows, start=start) if to != row]
        if moved:
            target, source = moved[0][0], [row for _, row in moved]
            for array in self._arrays:
                array[:, :, target : target + len(source)] = array[:, :, source]
