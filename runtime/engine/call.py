"""One shape of model call, bound once: the buffers of its inputs and outputs, run again and again.

Shapes: B batch, T positions, A rows of attention, W tokens blended at a position, S total length, R rows with logits,
E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Binding, Buffer, Device, Session
from skipstone.runtime.bundle import Dimensions
from skipstone.runtime.engine.cache import KVCache, layer_number
from skipstone.runtime.engine.draft_vocabulary import DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Feed, Part
from skipstone.runtime.engine.interruptible import interruptible
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["BoundCall"]

# Tokens that a bias has room for at least; then twice as many, and so on.
LEAST_WIDTH: Final = 1024
# Fewer rows than attention takes in one piece.
MAX_PIECE: Final = 16

Zeros = Callable[[str, int, int, str], Buffer]
"""(name, rows, width, type) -> zeros [rows, width or more]."""


class BoundCall:
    """A call of all stages, or of a part of them, on B x T positions with logits for R of them, over one cache.

    Between two parts of a model go hidden states: what the first stage of a later part reads comes with the feed, and
    what the last stage of an earlier one gave is `hidden` [B, T, E].

    Binding dozens of cache tensors costs more than a small model's whole step, so it is done here, once.
    """

    def __init__(
        self,
        sessions: Sessions,
        cache: KVCache,
        feed: Feed,
        part: Part = WHOLE,
        *,
        zeros: Zeros | None = None,
        vocabulary: DraftVocabulary | None = None,
    ) -> None:
        """Every feed that is run has the shape and the rows of `feed`, and weights if that has some.

        `zeros` gives the large buffers, which calls that never run at the same time may share. A pruned head gives
        logits for a `vocabulary`.
        """
        device, d = sessions.device, sessions.manifest.dimensions
        self._zeros = zeros or (lambda name, rows, width, dtype: device.zeros((rows, width), dtype))
        self._numbers = sessions.manifest.numbers
        self._vocabulary, self._cache = vocabulary, cache
        self._rotary_tables = sessions.rotary_tables(cache.num_rows)
        self.sessions = sessions.of(part)
        self._attention_rows = _attention_rows(feed, self.sessions)
        self._rings = _Rings(sessions, cache, self.sessions, batch=len(feed.token_ids))
        self._biases: dict[str, Buffer] = {}
        buffers = self._allocate(device, feed, d) | {**self._rotary_tables.buffers()} | self._rings.buffers
        if part.active:
            buffers["active_experts"] = _numbers(device, np.asarray(part.active, np.int64))
        adapter = sessions.adapter_of(part)
        if adapter is not None:
            buffers["adapted"] = device.resident(self._hidden.shape, self._numbers)
        self.bindings, given = list[Binding](), "hidden"
        for session in self.sessions:
            # Later stages read `hidden`, so what an adapter gives, for the head alone, has a place of its own.
            read, given = given, "adapted" if session is adapter else "hidden"
            states = {"hidden": buffers[read], "hidden_out": buffers[given]}
            self.bindings.append(self._bind(device.bind(session), session, buffers | states))
        takes_bias = [_takes(session, "attention_bias") for session in self.sessions]
        self._biased = [binding for binding, biased in zip(self.bindings, takes_bias, strict=True) if biased]
        num_tokens = feed.token_ids[..., 0].size
        self._kind = num_tokens.bit_length(), part  # of calls that cost nearly the same
        self._num_tokens = num_tokens
        self._owner = sessions  # the last to go

    def _allocate(self, device: Device, feed: Feed, dimensions: Dimensions) -> dict[str, Buffer]:
        """Return the buffers of all inputs and outputs beside the cache and the bias, by their names in the graphs."""
        batch, num_tokens, _ = feed.token_ids.shape
        num_rows = len(self._attention_rows)
        self._token_ids = device.zeros(feed.token_ids.shape, np.int64)
        self._weights = device.zeros(feed.token_ids.shape, self._numbers)
        self._weights.write(1)
        self._positions = device.zeros((batch, num_rows), np.int64)
        self._lengths, self._total = device.zeros((batch,), np.int32), device.zeros((), np.int32)
        self._hidden = device.resident((batch, num_tokens, dimensions.hidden_size), self._numbers)
        self._logits = self._zeros("logits", len(feed.rows), dimensions.vocab_size, "float32")
        return {
            "token_ids": self._token_ids,
            "token_weights": self._weights,
            "position_ids": self._positions,
            "seqlens_k": self._lengths,
            "total_sequence_length": self._total,
            "attention_rows": _numbers(device, self._attention_rows),
            "token_rows": _numbers(device, np.arange(num_tokens)),
            "rows": _numbers(device, np.asarray(feed.rows, np.int64)),
            "hidden": self._hidden,
            "logits": self._logits,
        }

    def _bias(self, name: str, total: int) -> Buffer:
        """Return a bias with room for a total length, and more: it grows as texts do. Zeros until it is written."""
        if name not in self._biases or self._biases[name].shape[0] < len(self._attention_rows) * total:
            width = min(max(LEAST_WIDTH, 1 << (total - 1).bit_length()), self._cache.num_rows)
            self._biases[name] = self._zeros(name, len(self._attention_rows), width, self._numbers).flat()
        return self._biases[name]

    def _bind(self, binding: Binding, session: Session, buffers: Mapping[str, Buffer]) -> Binding:
        """Bind what a graph takes and gives, save what changes from run to run."""
        for argument in session.get_inputs():
            if argument.name.startswith("past_"):
                binding.read_from(argument.name, self._cache.named(argument.name))
            elif argument.name not in ("attention_bias", "extra_ids"):
                binding.read_from(argument.name, buffers[argument.name])
        for result in session.get_outputs():
            if result.name.startswith("present_"):
                binding.write_to(result.name, self._cache.named(result.name))
            elif result.name != "extra_logits":
                binding.write_to(result.name, buffers[result.name])
        return binding

    @property
    def hidden(self) -> NDArray[np.float32]:
        """What the last stage gave [B, T, E], valid until the next run."""
        return self._hidden.read().astype(np.float32, copy=False)

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Run the part on a feed; return logits [R, V], valid until the next run."""
        lengths, tree, num_rows = feed.lengths, feed.tree, len(self._attention_rows)
        first = lengths if feed.starts is None else feed.starts
        total, sizes = int(lengths.max()) + num_rows, num_rows if feed.sizes is None else feed.sizes
        self._rotary_tables.reach(total)
        self._rings.turn_to(lengths, num_rows, sizes)
        self._token_ids.write(feed.token_ids)
        self._positions.write(first[:, None] + (self._attention_rows if tree is None else tree.depths))
        self._lengths.write(lengths + (sizes - 1))
        self._total.write(total)
        if feed.weights is not None:
            self._weights.write(feed.weights)
        if feed.hidden is not None:
            self._hidden.write(feed.hidden)
        bias = self._bias("no bias" if tree is None else "tree bias", total)  # causal order needs none
        if tree is not None:
            hidden = np.maximum(tree.bias(total), np.finfo(self._numbers).min)  # no infinity in float16
            bias.write(hidden.ravel(), slice(num_rows * total))
        for binding in self._biased:
            binding.read_from("attention_bias", bias, (1, 1, num_rows, total))
        if self._vocabulary is not None:
            self._vocabulary.bind(self.bindings[-1])
        run_all = interruptible(
            self._run_graphs, self._owner.device, num_tokens=self._num_tokens
        )  # kept, it were a circle
        with self._owner.gate:
            self._owner.crew.run(self._kind, self.sessions, run_all)
        return self._logits.read() if self._vocabulary is None else self._vocabulary.logits()

    def _run_graphs(self) -> None:
        for binding in self.bindings:
            binding.run()


class _Rings:
    """What the layers of a call read that hold the last rows of a text only: lengths of their own, by window."""

    def __init__(self, sessions: Sessions, cache: KVCache, graphs: Sequence[Session], *, batch: int) -> None:
        device, layers = sessions.device, sessions.manifest.cache
        inputs = [argument.name for graph in graphs for argument in graph.get_inputs()]
        bound = {layer_number(name) for name in inputs if name.startswith("past_")}
        self._cache, self._layers = cache, bound if cache.has_rings else frozenset[int]()
        self._layouts = {layout for number in sorted(bound) if (layout := layers[number].ring_layout)}
        self._lengths = {layout: device.zeros((batch,), np.int32) for layout in self._layouts}
        self._totals = {layout: device.zeros((), np.int32) for layout in self._layouts}
        self.buffers = {f"seqlens_k_{layout.window}": buffer for layout, buffer in self._lengths.items()}
        self.buffers |= {f"total_length_{layout.window}": buffer for layout, buffer in self._totals.items()}

    def turn_to(self, lengths: NDArray[np.int64], num_rows: int, sizes: NDArray[np.int64] | int) -> None:
        """Make ready for so many rows behind the `lengths` [B] of texts, of which the first `sizes` are the text's."""
        places = lengths.tolist()
        if self._layers:
            self._cache.turn_to(places, num_rows, self._layers)
        for layout in self._layouts:
            held = lengths - np.array([layout.start(place) for place in places])
            self._lengths[layout].write(held + (sizes - 1))
            self._totals[layout].write(int(held.max()) + num_rows)


def _attention_rows(feed: Feed, sessions: Sequence[Session]) -> NDArray[np.int64]:
    """Return the numbers [A] of the tokens that attention sees, in a chain where it must the last one twice.

    Attention takes many rows in pieces, whose size is its own affair, and rounds a single row in another way than
    several. So the last of many must not be alone, nor one row unless the feed lets it.
    """
    batch, num_tokens, _ = feed.token_ids.shape
    rows, is_chain = np.arange(num_tokens), batch == 1 and feed.tree is None
    is_alone = not feed.alone if num_tokens == 1 else num_tokens > MAX_PIECE
    if is_chain and is_alone and any(_takes(session, "attention_rows") for session in sessions):
        return np.append(rows, num_tokens - 1)
    return rows


def _numbers(device: Device, values: NDArray[np.int64]) -> Buffer:
    buffer = device.allocate(values.shape, np.int64)
    buffer.write(values)
    return buffer


def _takes(session: Session, name: str) -> bool:
    return any(argument.name == name for argument in session.get_inputs())
