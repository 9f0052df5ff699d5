"""The processor: every session of the process on one thread pool."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.cpu_memory import CpuBinding, CpuBuffer
from skipstone.devices.threads import physical_cores
from skipstone.errors import ConfigError, DeviceError

__all__ = ["CpuDevice", "open_cpu"]

# Our graphs are built from fused nodes already: all levels, and none, decode and load equally fast.
GRAPH_OPTIMIZATION = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
LOG_ERRORS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuDevice:
    """The CPU through onnxruntime; made by `open_cpu`, which sets the pool of `threads` that all its sessions share."""

    name: ClassVar[str] = "cpu"
    provider: ClassVar[str] = "CPUExecutionProvider"
    capabilities: ClassVar[frozenset[str]] = frozenset({"int4", "int8-cache", "tree-attention", "shared-cache"})
    threads: int

    def open_session(self, path: Path) -> ort.InferenceSession:
        """Return a session of the graph in file `path`. Raises: DeviceError when onnxruntime refuses the graph."""
        if not path.is_file():
            raise DeviceError(f"{path} is missing, so no session can be opened on it")
        options = ort.SessionOptions()
        options.use_per_session_threads = False
        options.log_severity_level = LOG_ERRORS
        options.graph_optimization_level = GRAPH_OPTIMIZATION
        try:
            # The fallback would try the same provider again, and print.
            return ort.InferenceSession(path, options, providers=[self.provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())
            raise DeviceError(f"{path}: onnxruntime {ort.__version__} cannot open this graph: {reason}") from error

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return a buffer with undefined contents. Raises: DeviceError when the memory does not suffice."""
        try:
            return CpuBuffer(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, CpuDevice.name))
        except MemoryError as error:
            raise DeviceError(f"no memory for a {dtype} buffer of shape {list(shape)}; lower --context") from error

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return a buffer of zeros; the system gives its memory page by page, where it is first touched."""
        return CpuBuffer.over(np.zeros(shape, dtype))

    def bind(self, session: ort.InferenceSession) -> CpuBinding:
        return CpuBinding(session)


def open_cpu(*, threads: int | None = None) -> CpuDevice:
    """Return the CPU on `threads` threads; by default those already running, or else one for each physical core.

    Raises: DeviceError when this process runs on another number already; ConfigError below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    return CpuDevice(threads=_shared_pool().claim(threads))


class _SharedPool:
    """The thread pool of all sessions in this process; onnxruntime makes it once and cannot change it.

    Invariant: `size` is None before the first claim and the same number ever after.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self._lock = threading.Lock()

    def claim(self, threads: int | None) -> int:
        """Return the pool's size, making the pool on the first call."""
        with self._lock:
            if self.size is None:
                self.size = _make_pool(physical_cores() if threads is None else threads)
            if threads not in (None, self.size):
                raise DeviceError(
                    f"this process already runs its models on {self.size} threads, {threads} asked: onnxruntime's "
                    "thread pool is one for the process and fixed by its first use; ask for the same number, or start "
                    "a new process"
                )
            return self.size


@functools.cache
def _shared_pool() -> _SharedPool:
    return _SharedPool()


def _make_pool(threads: int) -> int:
    try:
        ort.set_global_thread_pool_sizes(threads, 1)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise DeviceError(
            "another part of this program has already set onnxruntime's thread pool, so its size is not known here: "
            f"open the device before that, or leave it to skipstone ({error})"
        ) from error
    return threads
