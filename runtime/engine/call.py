"""One shape of model call, bound once: the buffers of its inputs and outputs, run again and again.

Shapes: B batch, T tokens, S total length, R rows with logits, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.draft_vocabulary import DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Part, TreeMask

if TYPE_CHECKING:
    from skipstone.runtime.engine.model import Model

__all__ = ["BoundCall"]

Zeros = Callable[[str, int, int], NDArray[np.float32]]
"""(name, rows, width) -> zeros [rows, width], contiguous."""


def _own_zeros(name: str, num_rows: int, width: int) -> NDArray[np.float32]:
    return np.zeros((num_rows, width), np.float32)


class BoundCall:
    """A call of all stages, or of a part of them, on B x T tokens with logits for R of them, over one cache.

    Between two parts of a model go hidden states: `hidden` [B, T, E] is what the first stage of a later part reads, and
    what the last stage of an earlier one gave.

    Binding dozens of cache tensors costs more than a small model's whole step, so it is done here, once.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        *,
        num_tokens: int,
        rows: Sequence[int],
        part: Part = WHOLE,
        zeros: Zeros = _own_zeros,
        vocabulary: DraftVocabulary | None = None,
    ) -> None:
        """`rows` are the numbers, over B * T, of the tokens whose logits are wanted.

        `zeros` gives the large buffers, which calls that never run at the same time may share. A pruned head gives
        logits for a `vocabulary`.
        """
        self._vocabulary = vocabulary
        self._shape = (cache.batch, num_tokens)
        self._offsets = np.arange(num_tokens)
        d = model.manifest.dimensions
        fed = {
            "token_ids": np.zeros((*self._shape, 1), np.int64),
            "token_weights": np.ones((*self._shape, 1), np.float32),
            "position_ids": np.zeros(self._shape, np.int64),
            "seqlens_k": np.zeros(cache.batch, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
            "rows": np.asarray(rows, np.int64),
        }
        # Causal order needs no bias; zeros for the longest total serve every shorter one.
        self._no_bias = zeros("no bias", num_tokens, cache.capacity)
        self._zeros = zeros
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in fed.items()}
        self._arrays = {name: value.numpy() for name, value in self._values.items()}
        self._values["hidden"] = model.device.allocate((*self._shape, d.hidden_size), "float32")
        self._logits = zeros("logits", len(rows), d.vocab_size)
        self._values["logits"] = ort.OrtValue.ortvalue_from_numpy(self._logits)
        self._bias_address = self._no_bias.ctypes.data
        self.hidden: NDArray[np.float32] = self._values["hidden"].numpy()
        self._sessions, adapter = model.sessions_of(part), model.adapter_of(part)
        if adapter is not None:
            self._values["adapted"] = model.device.allocate((*self._shape, d.hidden_size), "float32")
        self.bindings, given = [], "hidden"
        for session in self._sessions:
            # Later stages read `hidden`, so what an adapter gives, for the head alone, has a place of its own.
            read, given = given, "adapted" if session is adapter else "hidden"
            self.bindings.append(self._bind(session, cache, {"hidden": read, "hidden_out": given}))
        self._biased = [place for place, session in enumerate(self._sessions) if _takes(session, "attention_bias")]

    @cached_property
    def _tree_bias(self) -> NDArray[np.float32]:
        return self._zeros("tree bias", *self._no_bias.shape).reshape(-1)

    def _bind(self, session: ort.InferenceSession, cache: KVCache, states: Mapping[str, str]) -> ort.IOBinding:
        """Bind what a graph takes and gives; `states` are the names here of its hidden states."""
        binding = session.io_binding()
        for argument in session.get_inputs():
            if argument.name.startswith("past_"):
                binding.bind_ortvalue_input(argument.name, _cache_buffer(cache, argument.name))
            elif argument.name not in ("attention_bias", "extra_ids"):
                binding.bind_ortvalue_input(argument.name, self._values[states.get(argument.name, argument.name)])
        for result in session.get_outputs():
            if result.name.startswith("present_"):
                binding.bind_ortvalue_output(result.name, _cache_buffer(cache, result.name))
            elif result.name != "extra_logits":
                binding.bind_ortvalue_output(result.name, self._values[states.get(result.name, result.name)])
        return binding

    def run(
        self,
        token_ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        starts: NDArray[np.int64] | None = None,
        tree: TreeMask | None = None,
    ) -> NDArray[np.float32]:
        """Feed `token_ids` [B, T] after `lengths` [B] cached tokens; return logits [R, V], valid until the next run.

        `starts` [B] are the positions of the first tokens, rows of the rotary tables; by default as many as are cached.
        Without a `tree` each token follows the one before it.
        """
        num_tokens = self._shape[1]
        arrays = self._arrays
        arrays["token_ids"][:, :, 0] = token_ids
        first = lengths if starts is None else starts
        arrays["position_ids"][:] = first[:, None] + (self._offsets if tree is None else tree.depths)
        arrays["seqlens_k"][:] = lengths + (num_tokens - 1)
        total = int(lengths.max()) + num_tokens
        arrays["total_sequence_length"][()] = total
        if self._biased:
            address = self._bias_address
            if tree is not None:
                tree.write_bias(total, out=self._tree_bias)
                address = self._tree_bias.ctypes.data
            for stage in self._biased:
                self.bindings[stage].bind_input(
                    "attention_bias", "cpu", 0, np.float32, (1, 1, num_tokens, total), address
                )
        if self._vocabulary is not None:
            self._vocabulary.bind(self.bindings[-1])
        for session, binding in zip(self._sessions, self.bindings, strict=True):
            session.run_with_iobinding(binding)
        return self._logits if self._vocabulary is None else self._vocabulary.logits()


def _takes(session: ort.InferenceSession, name: str) -> bool:
    return any(argument.name == name for argument in session.get_inputs())


def _cache_buffer(cache: KVCache, name: str) -> ort.OrtValue:
    """Return the buffer for a tensor called past_key_3, present_value_3 and so on."""
    _, kind, layer = name.split("_")
    key, value = cache.layers[int(layer)]
    return key if kind == "key" else value
