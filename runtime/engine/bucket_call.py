"""The call of graphs whose shapes are fixed: the one place that chooses sizes, fills up rows, and says who sees whom.

Shapes: B batch, T positions, R rows of a graph, C rows of the cache, E hidden size, K kv heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Binding, Buffer
from skipstone.errors import ConfigError
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.feed import HIDDEN, Feed, Part
from skipstone.runtime.engine.interruptible import interruptible
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["BucketCall"]

_BIAS = "attention_bias"


class BucketCall:
    """A call of all stages, or of a part of them, over one cache, for feeds of any shape.

    Texts are fed one after the other, each in pieces of as many rows as a graph takes; the last piece is filled up with
    rows that nobody sees. The new keys and values of a piece are put into the cache behind it.
    """

    def __init__(self, sessions: Sessions, cache: KVCache, part: Part) -> None:
        """`sessions` have buckets, and the cache is as long as one of them says."""
        assert sessions.buckets is not None, "other sessions have graphs for any shape"
        self._sessions, self._cache, self._part, self._buckets = sessions, cache, part, sessions.buckets
        self._lowest = np.finfo(sessions.manifest.numbers).min  # no infinity in float16
        self._graphs: dict[tuple[int, int], _BoundGraphs] = {}
        self._hidden = np.zeros((1, 0, sessions.manifest.dimensions.hidden_size), np.float32)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """What the last stage gave [B, T, E]."""
        return self._hidden

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Run the part on a feed; return logits [R, V] of the rows that it asks for. Raises: ConfigError for blends."""
        if feed.weights is not None or feed.token_ids.shape[2] > 1:
            raise ConfigError("graphs of fixed shapes take tokens only, no blends")
        batch, num_tokens, _ = feed.token_ids.shape
        d = self._sessions.manifest.dimensions
        self._hidden = np.zeros((batch, num_tokens, d.hidden_size), np.float32)
        logits = np.zeros((len(feed.rows), d.vocab_size), np.float32)
        asked = np.asarray(feed.rows, np.int64)
        for text in range(batch):
            size = num_tokens if feed.sizes is None else int(feed.sizes[text])
            for start in range(0, size, self._buckets.rows[-1]):
                piece = slice(start, min(size, start + self._buckets.rows[-1]))
                given = self._run_piece(feed, text, piece)
                here = asked - text * num_tokens
                inside = (piece.start <= here) & (here < piece.stop)
                if given is not None:
                    logits[inside] = given[here[inside] - piece.start]
        return logits

    def _run_piece(self, feed: Feed, text: int, piece: slice) -> NDArray[np.float32] | None:
        """Run the graphs on some rows of one text; return logits [R, V] where the part has a head."""
        count, length = piece.stop - piece.start, int(feed.lengths[text])
        graphs = self._bound(text, self._buckets.rows_for(count))
        first = length if feed.starts is None else int(feed.starts[text])
        depths = np.arange(feed.token_ids.shape[1]) if feed.tree is None else feed.tree.depths
        graphs.feed(feed.token_ids[text, piece, 0], first + depths[piece])
        if feed.hidden is not None:
            states = np.broadcast_to(feed.hidden, self._hidden.shape)  # of one text they may come without B
            graphs.hidden.write(states[text, piece], np.s_[0, :count])
        total, context = length + feed.token_ids.shape[1], self._cache.num_rows
        bias = np.zeros((count, total), np.float32) if feed.tree is None else feed.tree.bias(total)[piece]
        for window, buffer in graphs.biases.items():
            seen = _who_sees_whom(bias, length + piece.start, graphs.num_rows, context, window)
            buffer.write(np.maximum(seen, self._lowest))
        with self._sessions.gate:
            interruptible(graphs.run, self._sessions.device, num_tokens=count)()
        place = length + piece.start
        for name, rows in graphs.presents.items():
            self._cache.named(name).write(rows.read()[0, :, :count], np.s_[text, :, place : place + count])
        self._hidden[text, piece] = graphs.hidden.read()[0, :count]
        return None if graphs.logits is None else graphs.logits.read()

    def _bound(self, text: int, num_rows: int) -> _BoundGraphs:
        """Return the graphs for so many rows, bound to the cache of a text when first asked for."""
        key = text, num_rows
        if key not in self._graphs:
            self._graphs[key] = _BoundGraphs(self._sessions, self._cache.row(text), self._part, num_rows)
        return self._graphs[key]


class _BoundGraphs:
    """The graphs of a part for R rows of one text, bound to buffers of their own and to its cache."""

    def __init__(self, sessions: Sessions, cache: KVCache, part: Part, num_rows: int) -> None:
        assert sessions.buckets is not None, "other sessions have graphs for any shape"
        device, manifest, self.num_rows = sessions.device, sessions.manifest, num_rows
        self._tables, numbers = sessions.rotary_tables(cache.num_rows), manifest.numbers
        here = replace(part, variant=sessions.buckets.kind(num_rows, cache.num_rows))
        graphs, adapter = sessions.of(here), sessions.adapter_of(here)
        self._token_ids = device.zeros((1, num_rows, 1), np.int64)
        self._positions = device.zeros((1, num_rows), np.int64)
        self.hidden = device.zeros((1, num_rows, manifest.dimensions.hidden_size), numbers)
        self.logits: Buffer | None = None
        self.presents: dict[str, Buffer] = {}
        self.biases: dict[int | None, Buffer] = {}
        self._turns: dict[str, Buffer] = {}
        adapted = None if adapter is None else device.zeros(self.hidden.shape, numbers)
        known: dict[str, Buffer] = {"token_ids": self._token_ids, "position_ids": self._positions}
        self._bindings, given = list[Binding](), self.hidden
        for graph in graphs:
            binding, read = device.bind(graph), given
            given = adapted if graph is adapter and adapted is not None else self.hidden
            for argument in graph.get_inputs():
                name, shape = argument.name, tuple(argument.shape)
                if name.startswith("past_"):
                    binding.read_from(name, cache.named(name))
                    continue
                if name not in known and name != "hidden":
                    known[name] = device.zeros(shape, numbers)
                    if name.startswith(_BIAS):
                        self.biases[int(name.rpartition("_")[2]) if name != _BIAS else None] = known[name]
                    else:
                        self._turns[name] = known[name]
                binding.read_from(name, read if name == "hidden" else known[name])
            for result in graph.get_outputs():
                binding.write_to(result.name, self._place(result.name, tuple(result.shape), given, sessions))
            self._bindings.append(binding)
        self._owner = sessions  # the last to go

    def _place(self, name: str, shape: tuple[int, ...], hidden: Buffer, sessions: Sessions) -> Buffer:
        """Return the buffer that an output fills."""
        if name == "hidden_out":
            return hidden
        if name == "logits":
            self.logits = sessions.device.zeros(shape, np.float32)
            return self.logits
        self.presents[name] = sessions.device.zeros(shape, sessions.manifest.numbers)
        return self.presents[name]

    def feed(self, token_ids: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Give the first rows tokens and positions; the others keep what they had."""
        count = len(token_ids)
        self._token_ids.write(token_ids, np.s_[0, :count, 0])
        self._positions.write(positions, np.s_[0, :count])
        tables: Mapping[str, Buffer] = self._tables.buffers() if self._turns else {}
        self._tables.reach(int(positions.max()) + 1)
        for name, buffer in self._turns.items():
            buffer.write(tables[name].read()[positions], np.s_[:count])

    def run(self) -> None:
        for binding in self._bindings:
            binding.run()


def _who_sees_whom(
    bias: NDArray[np.float32], place: int, num_rows: int, context: int, window: int | None
) -> NDArray[np.float32]:
    """Return what is added to scores [R, C + R] of rows whose first is at a `place` of the text.

    `bias` [n, total] is theirs over all rows of the text, of which no row sees those behind it. Rows that fill up, and
    rows of the cache that hold nothing, are seen by none but themselves.
    """
    count, places = len(bias), place + np.arange(len(bias))[:, None]
    columns = np.arange(place + count)
    seen = (columns <= places) & (True if window is None else columns > places - window)
    of_text = np.where(seen, bias[:, : place + count], HIDDEN)
    whole = np.full((num_rows, context + num_rows), HIDDEN, np.float32)
    whole[np.arange(num_rows), context + np.arange(num_rows)] = 0
    whole[:count, :place] = of_text[:, :place]
    whole[:count, context : context + count] = of_text[:, place:]
    return whole
