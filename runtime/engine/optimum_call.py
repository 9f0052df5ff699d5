"""The call of a graph that we did not build: it takes the whole cache as inputs and gives it back, longer.

Shapes: T tokens, P cached tokens, S = P + T, R rows with logits, K kv heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.feed import TreeMask

if TYPE_CHECKING:
    from skipstone.runtime.engine.model import Model

__all__ = ["WrappedCall"]


class WrappedCall:
    """A call of optimum's graph on T tokens of one text, with logits for R of them, over our own cache.

    The cache stays where every other part of the runtime looks for it; the graph sees a copy of its rows.
    """

    def __init__(self, model: Model, cache: KVCache, *, num_tokens: int, rows: Sequence[int]) -> None:
        """`rows` are the numbers of the tokens whose logits are wanted."""
        if cache.batch != 1:
            raise ConfigError(f"a graph of optimum takes one text at a time, got a cache for {cache.batch}")
        (self._session,) = model.sessions
        self._num_tokens, self._rows = num_tokens, np.asarray(rows, np.int64)
        self._taken = {argument.name for argument in self._session.get_inputs()}
        self.hidden = np.empty((1, num_tokens, 0), np.float32)  # of parts, which it does not have
        self._buffers: dict[str, NDArray[np.float32]] = {}
        for layer, (key, value) in enumerate(cache.layers):
            self._buffers |= {f"{layer}.key": key.numpy(), f"{layer}.value": value.numpy()}
        self._outputs = ["logits", *(f"present.{name}" for name in self._buffers)]

    def run(
        self,
        token_ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        starts: NDArray[np.int64] | None = None,
        tree: TreeMask | None = None,
    ) -> NDArray[np.float32]:
        """Feed `token_ids` [1, T] after `lengths` [1] cached tokens; return logits [R, V].

        `starts` [1] is the position of the first token, by default as many as are cached. Each token follows the one
        before it. Raises: ConfigError for a tree. Cost: beside the model, the rows of the cache are copied twice, once
        for the graph and once inside it.
        """
        if tree is not None:
            raise ConfigError("a graph of optimum takes chains only, as it has no input for who sees whom in a tree")
        length = int(lengths[0])
        total = length + self._num_tokens
        start = length if starts is None else int(starts[0])
        known = {
            "input_ids": token_ids,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(start, start + self._num_tokens)[None],
        }
        feeds: dict[str, NDArray[np.generic]] = {name: known[name] for name in known if name in self._taken}
        for name, buffer in self._buffers.items():
            feeds[f"past_key_values.{name}"] = np.ascontiguousarray(buffer[:, :, :length])
        logits, *presents = self._session.run(self._outputs, feeds)
        for buffer, present in zip(self._buffers.values(), presents, strict=True):
            buffer[:, :, length:total] = present[:, :, length:]
        found: NDArray[np.float32] = logits[0, self._rows]
        return found
