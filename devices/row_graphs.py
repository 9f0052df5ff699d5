"""Small graphs that read, write and copy rows of a device's buffers, on the device itself.

Rows are seen as words of 32 bits, whatever numbers they hold: so one graph serves all types, also those that the device
cannot compute with. Shapes: N and M rows of two buffers, n rows that are copied, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

__all__ = ["WORD_BYTES", "RowGraphs", "Rows"]

WORD_BYTES: Final = 4
OPSET, IR_VERSION = 18, 8


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a buffer on the device, by their numbers."""

    value: ort.OrtValue
    row_bytes: int
    numbers: NDArray[np.int64]

    @property
    def words(self) -> tuple[int, int]:
        """The shape of the whole buffer in words, [N, W]."""
        return self.value.tensor_size_in_bytes() // self.row_bytes, self.row_bytes // WORD_BYTES


class RowGraphs:
    """The graphs of one device, opened when first used.

    A target may be its own source: the rows are taken out before any is written.
    """

    def __init__(self, kind: str, index: int, open_graph: Callable[[bytes], ort.InferenceSession]) -> None:
        self._kind, self._index, self._open_graph = kind, index, open_graph

    def start(self) -> None:
        """Open one of them now. Raises: what opening a graph does."""
        _ = self._copier

    def read(self, rows: Rows) -> NDArray[np.int32]:
        """Return rows [n, W]."""
        words = np.empty((len(rows.numbers), rows.words[1]), np.int32)
        if words.size:
            binding = self._reader.io_binding()
            self._bind_source(binding, rows)
            binding.bind_ortvalue_output("taken", ort.OrtValue.ortvalue_from_numpy(words))
            self._reader.run_with_iobinding(binding)
        return words

    def write(self, rows: Rows, words: NDArray[np.int32]) -> None:
        """Put words [n, W] into rows."""
        binding = self._writer.io_binding()
        binding.bind_cpu_input("taken", words)
        self._bind_target(binding, rows)
        self._writer.run_with_iobinding(binding)

    def copy(self, source: Rows, target: Rows) -> None:
        """Put rows of one buffer, or of the same, into as many others."""
        assert len(source.numbers) == len(target.numbers) and source.row_bytes == target.row_bytes
        if len(source.numbers):
            binding = self._copier.io_binding()
            self._bind_source(binding, source)
            self._bind_target(binding, target)
            self._copier.run_with_iobinding(binding)

    def _bind_source(self, binding: ort.IOBinding, rows: Rows) -> None:
        binding.bind_cpu_input("from_rows", rows.numbers)
        binding.bind_input("source", self._kind, self._index, np.int32, rows.words, rows.value.data_ptr())

    def _bind_target(self, binding: ort.IOBinding, rows: Rows) -> None:
        binding.bind_cpu_input("to_rows", rows.numbers[:, None])
        address = rows.value.data_ptr()
        binding.bind_input("target", self._kind, self._index, np.int32, rows.words, address)
        binding.bind_output("written", self._kind, self._index, np.int32, rows.words, address)

    @cached_property
    def _reader(self) -> ort.InferenceSession:
        return self._open_graph(_graph(takes=True, puts=False))

    @cached_property
    def _writer(self) -> ort.InferenceSession:
        return self._open_graph(_graph(takes=False, puts=True))

    @cached_property
    def _copier(self) -> ort.InferenceSession:
        return self._open_graph(_graph(takes=True, puts=True))


def _graph(*, takes: bool, puts: bool) -> bytes:
    """Return a graph that takes rows out of a source, puts them into a target, or both."""
    from onnx import TensorProto, helper  # heavy, and only a device with memory of its own needs it

    def tensor(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    taken = tensor("taken", TensorProto.INT32, "n", "W")
    source = [tensor("source", TensorProto.INT32, "N", "W"), tensor("from_rows", TensorProto.INT64, "n")]
    target = [tensor("target", TensorProto.INT32, "M", "W"), tensor("to_rows", TensorProto.INT64, "n", 1)]
    nodes = [helper.make_node("Gather", ["source", "from_rows"], ["taken"])] if takes else []
    nodes += [helper.make_node("ScatterND", ["target", "to_rows", "taken"], ["written"])] if puts else []
    inputs: Sequence[Any] = [*(source if takes else [taken]), *(target if puts else [])]
    results = [tensor("written", TensorProto.INT32, "M", "W")] if puts else [taken]
    graph = helper.make_graph(nodes, "rows", inputs, results)
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString())
