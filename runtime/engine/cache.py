"""Where keys and values of past tokens live: one buffer per layer, written in place by the attention nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Buffer, Device
from skipstone.runtime.bundle import LayerCache
from skipstone.runtime.engine.ring import Ring

__all__ = ["KVCache", "layer_number"]

SPARE_ROWS = 2


class KVCache:
    """Keys and values [B, K, C, D] per layer; which of the C rows count is known by whoever passes the lengths.

    Nothing is cleared: a row beyond the length is never read, and the next call overwrites it. Two rows are for what
    a call feeds beside its tokens. Layers with a window may hold the last rows of long texts only: these have a ring
    for each text.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Buffer, Buffer]],
        rings: Sequence[Sequence[Ring | None]],
        *,
        capacity: int,
        num_rows: int,
        last_layer: int,
    ) -> None:
        """`rings` are those of the layers of each text; `capacity` is how many tokens of one text fit, in
        `num_rows` rows, some of which are for what calls feed beside them.

        `last_layer` is the last one that keeps all rows of texts of any length, where there is one.
        """
        self.layers, self.rings = tuple(layers), tuple(rings)
        self.capacity, self.num_rows, self._last_layer = capacity, num_rows, last_layer
        self._rings_of_first = [ring for ring in self.rings[0] if ring is not None]  # asked at every step

    def __iter__(self) -> Iterator[Buffer]:
        """Yield the buffers: keys of the first layer, its values, and so on."""
        for layer in self.layers:
            yield from layer

    @classmethod
    def allocate(
        cls,
        layers: Sequence[LayerCache],
        device: Device,
        *,
        capacity: int,
        batch: int = 1,
        fixed_rows: int | None = None,
    ) -> KVCache:
        """Return buffers for `capacity` tokens; memory that is never written is never taken from the system.

        With `fixed_rows` all layers have so many rows, of zeros.
        """

        def buffer(layer: LayerCache) -> Buffer:
            if fixed_rows is not None:
                return device.zeros((batch, layer.num_heads, fixed_rows, layer.head_size), layer.dtype)
            num_rows = layer.num_rows(capacity) + SPARE_ROWS
            return device.resident((batch, layer.num_heads, num_rows, layer.head_size), layer.dtype)

        buffers = [(buffer(layer), buffer(layer)) for layer in layers]
        layouts = [layer.ring_layout for layer in layers]
        rings = [
            [
                Ring(layout, (key.view(text), value.view(text))) if layout and capacity > layout.num_working else None
                for layout, (key, value) in zip(layouts, buffers, strict=True)
            ]
            for text in (slice(number, number + 1) for number in range(batch))
        ]
        last = max((number for number, layout in enumerate(layouts) if layout is None), default=len(layers) - 1)
        num_rows = capacity + SPARE_ROWS if fixed_rows is None else fixed_rows
        return cls(buffers, rings, capacity=capacity, num_rows=num_rows, last_layer=last)

    @property
    def has_rings(self) -> bool:
        """Whether some layers hold the last rows of a text only."""
        return bool(self._rings_of_first)

    def turn_to(self, places: Sequence[int], num_rows: int, layers: Collection[int] | None = None) -> None:
        """Make ready for rows from a place of each text on, in some layers or in all."""
        for place, rings in zip(places, self.rings, strict=True):
            for number, ring in enumerate(rings):
                if ring is not None and (layers is None or number in layers):
                    ring.turn_to(place, num_rows)

    def holds(self, length: int) -> bool:
        """Return whether the first `length` rows of the first text, which were all written, suffice to go on."""
        return all(ring.holds(length) for ring in self._rings_of_first)

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    def named(self, name: str) -> Buffer:
        """Return the buffer of a graph's tensor called past_key_3, present_value_3, present_key_3_of_5 and so on."""
        key, value = self.layers[layer_number(name)]
        return key if name.split("_")[1] == "key" else value

    def row(self, index: int) -> KVCache:
        """Return the cache of one sequence of the batch: the same memory, [1, K, C, D]."""
        return self.rows(slice(index, index + 1))

    def rows(self, at: slice) -> KVCache:
        """Return the cache of some sequences of the batch that stand in a row: the same memory."""
        layers = [(key.view(at), value.view(at)) for key, value in self.layers]
        sizes = {"capacity": self.capacity, "num_rows": self.num_rows}
        return KVCache(layers, self.rings[at], **sizes, last_layer=self._last_layer)

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Return what the last layer that keeps all rows has as values in some of the first text, [rows, K * D].

        Where no layer keeps all, those of the last layer that are still there.
        """
        _, buffer = self.layers[self._last_layer]
        ring = self.rings[0][self._last_layer]
        kept = buffer.read(np.s_[0, :, rows if ring is None else ring.local(rows)]).swapaxes(0, 1)
        return kept.reshape(len(kept), -1).astype(np.float32)

    def copy_from(self, other: KVCache, length: int) -> None:
        """Take over the first `length` rows of `other`, both of one text."""
        for number, (mine, theirs) in enumerate(zip(self.layers, other.layers, strict=True)):
            ring, source = self.rings[0][number], other.rings[0][number]
            if ring is not None and source is not None:
                ring.copy_from(source)
                continue
            for ring_of_text in (ring, source):  # that of the text with more room; so short a text loses no rows
                if ring_of_text is not None:
                    ring_of_text.turn_to(length)
            for to, buffer in zip(mine, theirs, strict=True):
                to.copy_from(buffer, np.s_[:, :, :length])

    def reorder(self, parents: Sequence[int], rows: slice) -> None:
        """Give the first texts the `rows` of texts `parents`; all are as long, and what stands before is the same."""
        target = slice(len(parents))
        for number, layer in enumerate(self.layers):
            rings = [text[number] for text in self.rings]
            moved = rows
            for ring in rings:
                if ring is not None:
                    moved, ring.has_left = ring.local(rows), False
            for buffer in layer:
                buffer.move(np.s_[list(parents), :, moved], np.s_[target, :, moved])

    @property
    def first_rows(self) -> tuple[int, ...]:
        """The first row of the first text that is still there, by layer."""
        return tuple(0 if ring is None else ring.first for ring in self.rings[0])

    def blocks(self, length: int) -> Iterator[NDArray[Any]]:
        """Yield keys [K, T, D], then values, of each layer: the rows of the first text, up to `length`, that it has."""
        for ring, layer in zip(self.rings[0], self.layers, strict=True):
            yield from (buffer.read(np.s_[0, :, :length]) for buffer in layer) if ring is None else ring.rows(length)

    def takes(self, length: int, first_rows: Sequence[int]) -> bool:
        """Return whether rows from these on, by layer, suffice for a text of `length` rows to go on."""
        starts = (0 if ring is None else ring.layout.start(length) for ring in self.rings[0])
        return all(start >= first for start, first in zip(starts, first_rows, strict=True))

    def fill(self, length: int, first_rows: Sequence[int], blocks: Sequence[NDArray[Any]]) -> None:
        """Take the rows of a text up to `length`; `blocks` has keys and values of each layer as `blocks` gives them."""
        for number, (ring, first) in enumerate(zip(self.rings[0], first_rows, strict=True)):
            key, value = (block[:, : length - first] for block in blocks[2 * number : 2 * number + 2])
            if ring is not None:
                ring.fill((key, value), first=first)
                continue
            for buffer, rows in zip(self.layers[number], (key, value), strict=True):
                buffer.write(rows, np.s_[0, :, :length])

    def move(self, rows: Sequence[int], *, start: int) -> None:
        """Put the cached `rows`, which rise, one behind the other from row `start` on."""
        moved = [(to, row) for to, row in enumerate(rows, start=start) if to != row]
        if moved:
            target, source = moved[0][0], [row for _, row in moved]
            for buffer in self:
                buffer.move(np.s_[:, :, source], np.s_[:, :, target : target + len(source)])


def layer_number(name: str) -> int:
    """Return the layer of a graph's tensor called past_key_3, present_value_3, present_key_3_of_5 and so on."""
    return int(name.split("_")[2])
