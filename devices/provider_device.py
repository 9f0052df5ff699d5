"""A device with memory of its own, through an execution provider of onnxruntime."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.cpu_memory import CpuBuffer
from skipstone.devices.device import Hardware
from skipstone.devices.forks import keep_in_forks
from skipstone.devices.provider_binding import ProviderBinding
from skipstone.devices.provider_memory import ProviderBuffer, ProviderMemory, reason_told
from skipstone.devices.row_graphs import WORD_BYTES, RowGraphs
from skipstone.devices.thread_pool import ThreadPool
from skipstone.devices.turned_rows import turned_before
from skipstone.errors import DeviceError

__all__ = ["ProviderDevice", "nodes_on_processor"]

LOG_ERRORS: Final = 3
WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"
PROCESSOR: Final = "CPUExecutionProvider"
OUT_OF_MEMORY: Final = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "error creating buffer")
# What is said where a provider is installed, and its driver or hardware is not as it needs them.
NOT_STARTED: Final = ("createprovider", "adapter", "no cuda-capable", "cudasetdevice", "driver version")
# Nodes that do a model's work. Others, of shapes and numbers of rows, are quick anywhere.
HEAVY: Final = frozenset(
    {"MatMul", "MatMulNBits", "Gemm", "GatherBlockQuantized", "GroupQueryAttention", "Attention", "MoE", "QMoE"}
)


@dataclass(frozen=True, kw_only=True)
class ProviderDevice:
    """Graphs run on the provider's device, and what it has no kernel for on `threads` threads of the processor.

    `kind` and `index` are how onnxruntime calls its memory, such as `cuda` and 1. `open_graph` opens a file or the
    bytes of a graph there. `memory_left` returns the bytes that are free and all there are, None where nobody tells.
    With `takes_offsets` an address may point into a buffer. A provider that `fails_silently` gives useless buffers
    where there is no memory. Where attention `ignores_positions`, rows are turned before it.
    """

    name: str
    provider: str
    kind: str
    index: int
    threads: int
    capabilities: frozenset[str]
    targets: tuple[str, ...]
    hardware: Hardware
    open_graph: Callable[[Path | bytes, ort.SessionOptions], ort.InferenceSession]
    memory_left: Callable[[], tuple[int | None, int | None]]
    takes_offsets: bool
    fails_silently: bool = False
    ignores_positions: bool = False

    def open_session(self, path: Path) -> ort.InferenceSession:
        """Return a session of the graph in file `path`; warns of heavy nodes that run on the processor.

        Raises: DeviceError.
        """
        if not path.is_file():
            raise DeviceError(f"{path} is missing, so no session can be opened on it")
        session = self._open(path, str(path))
        nodes = nodes_on_processor(session)
        heavy = {name: count for name, count in nodes.items() if name in HEAVY}
        if heavy and self.provider != PROCESSOR:
            told = ", ".join(f"{count} {name}" for name, count in sorted(heavy.items()))
            warnings.warn(
                f"{path.name}: {told} run on the processor, as {self.name} has no kernel for them in this graph; "
                "each costs a copy both ways",
                RuntimeWarning,
                stacklevel=2,
            )
        return session

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return a buffer of the host, its contents undefined; the provider copies it."""
        return self.zeros(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        return CpuBuffer.over(np.zeros(shape, dtype))

    def resident(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer | ProviderBuffer:
        """Return a buffer on the device; of the host where its rows are no whole words, as no family has them."""
        row_bytes = int(np.prod(shape[-1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._memory.allocate(shape, dtype) if row_bytes % WORD_BYTES == 0 else self.zeros(shape, dtype)

    def free_bytes(self) -> int | None:
        free, _ = self.memory_left()
        return free

    def total_bytes(self) -> int | None:
        _, total = self.memory_left()
        return total

    def bind(self, session: ort.InferenceSession) -> ProviderBinding:
        return ProviderBinding(self._memory, session)

    @cached_property
    def _memory(self) -> ProviderMemory:
        graphs = RowGraphs(self.kind, self.index, lambda graph: self._open(graph, "the graph that moves rows"))
        return ProviderMemory(
            self.kind,
            self.index,
            graphs,
            takes_offsets=self.takes_offsets,
            fails_silently=self.fails_silently,
        )

    def _open(self, graph: Path | bytes, what: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        ThreadPool(threads=self.threads, sleeps_between_runs=True).set_in(options)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = LOG_ERRORS
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            if self.ignores_positions and isinstance(graph, Path):
                options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
                graph = turned_before(graph) or graph
            session = self.open_graph(graph, options)
        except Exception as error:  # errors of onnxruntime and of onnx have no base
            raise self._told(error, what) from error
        if self.provider not in session.get_providers():
            raise self._broken("onnxruntime took the processor, and said why")
        keep_in_forks(session)
        return session

    def _broken(self, reason: str) -> DeviceError:
        return DeviceError(
            f"device {self.name} is broken here: {self.provider} is installed but does not start; mend its driver, or "
            f"give --device cpu ({reason})"
        )

    def _told(self, error: Exception, what: str) -> DeviceError:
        reason = reason_told(error)
        if any(words in reason.lower() for words in OUT_OF_MEMORY):
            return DeviceError(
                f"{what}: {self.name} has not enough memory for it; lower --context or take a smaller bundle ({reason})"
            )
        if any(words in str(error).lower() for words in NOT_STARTED):
            return self._broken(reason)
        return DeviceError(f"{what}: {self.name} cannot open it, in onnxruntime {ort.__version__}: {reason}")


def nodes_on_processor(session: ort.InferenceSession) -> Mapping[str, int]:
    """Return how many nodes of each operator a provider left to the processor; its sessions must record that."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == PROCESSOR
        for node in part.get_nodes()
    )
