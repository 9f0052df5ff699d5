"""Where keys and values of past tokens live: one buffer per layer, written in place by the attention nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from skipstone.devices import Device
from skipstone.runtime.manifest import LayerCache

__all__ = ["KVCache"]


class KVCache:
    """Keys and values [B, K, C, D] per layer; which of the C rows count is known by whoever passes the lengths.

    Nothing is cleared: a row beyond the length is never read, and the next call overwrites it.
    """

    def __init__(self, layers: Sequence[tuple[ort.OrtValue, ort.OrtValue]]) -> None:
        self.layers = tuple(layers)

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
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for target, source in zip(mine, theirs, strict=True):
                np.copyto(target.numpy()[:, :, :length], source.numpy()[:, :, :length])
