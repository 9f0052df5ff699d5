"""The call of a graph that we did not build: it takes the whole cache as inputs and gives it back, longer.

Shapes: T tokens, P cached tokens, S = P + T, R rows with logits, K kv heads, D head size, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import run_cancellable
from skipstone.errors import ConfigError
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.feed import WHOLE, Feed
from skipstone.runtime.engine.interruptible import interruptible
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["WrappedCall"]


class WrappedCall:
    """A call of optimum's graph on T tokens of one text, with logits for R of them, over our own cache.

    The cache stays where every other part of the runtime looks for it; the graph sees a copy of its rows.
    """

    def __init__(self, sessions: Sessions, cache: KVCache, feed: Feed) -> None:
        """Every feed that is run has the shape and the rows of `feed`."""
        if cache.batch != 1:
            raise ConfigError(f"a graph of optimum takes one text at a time, got a cache for {cache.batch}")
        self.sessions = sessions.graphs
        (self._session,) = self.sessions
        self._num_tokens, self._rows = feed.token_ids.shape[1], np.asarray(feed.rows, np.int64)
        self._taken = {argument.name for argument in self._session.get_inputs()}
        self.hidden = np.empty((1, self._num_tokens, 0), np.float32)  # of parts, which it does not have
        self._buffers = {
            f"{layer}.{kind}": buffer
            for layer, pair in enumerate(cache.layers)
            for kind, buffer in zip(("key", "value"), pair, strict=True)
        }
        self._outputs = ["logits", *(f"present.{name}" for name in self._buffers)]
        self._owner = sessions  # the last to go

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return logits [R, V] for a feed of chains.

        Raises: ConfigError for a tree and for blends. Cost: beside the model, the rows of the cache are copied twice,
        once for the graph and once inside it.
        """
        if feed.tree is not None:
            raise ConfigError("a graph of optimum takes chains only, as it has no input for who sees whom in a tree")
        if feed.weights is not None:
            raise ConfigError("a graph of optimum takes tokens only, as it has no input for the weights of a blend")
        length = int(feed.lengths[0])
        total = length + self._num_tokens
        start = length if feed.starts is None else int(feed.starts[0])
        known = {
            "input_ids": feed.token_ids[:, :, 0],
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(start, start + self._num_tokens)[None],
        }
        feeds: dict[str, NDArray[np.generic]] = {name: known[name] for name in known if name in self._taken}
        for name, buffer in self._buffers.items():
            feeds[f"past_key_values.{name}"] = np.ascontiguousarray(buffer.read(np.s_[:, :, :length]))
        results: list[NDArray[np.float32]] = []
        kind = self._num_tokens.bit_length(), WHOLE

        def run() -> None:
            results.extend(run_cancellable(lambda options: self._session.run(self._outputs, feeds, options)))

        run_all = interruptible(run, self._owner.device, num_tokens=self._num_tokens)
        with self._owner.gate:
            self._owner.crew.run(kind, self.sessions, run_all)
        logits, *presents = results
        for buffer, present in zip(self._buffers.values(), presents, strict=True):
            buffer.write(present[:, :, length:], np.s_[:, :, length:total])
        rows: NDArray[np.float32] = logits[0, self._rows]
        return rows
