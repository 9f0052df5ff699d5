"""The processor: every session with threads of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.capabilities import Capability
from skipstone.devices.cpu_memory import NO_MEMORY, CpuBinding, CpuBuffer
from skipstone.devices.forks import keep_in_forks
from skipstone.devices.free_memory import free_bytes, total_bytes
from skipstone.devices.parked_workers import ParkedWorkers
from skipstone.devices.thread_pool import AWAKE_US, ThreadPool
from skipstone.devices.threads import physical_cores
from skipstone.errors import ConfigError, DeviceError

__all__ = ["CpuDevice", "open_cpu"]

# Our graphs are built from fused nodes already: all levels, and none, decode and load equally fast.
GRAPH_OPTIMIZATION = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
LOG_ERRORS = 3
# A word of the error where the process has a pool that every session must share.
MOST_THREADS = 1024
GLOBAL_POOL = "use_per_session_threads"
# Older ones come with providers that replace onnxruntime; their attention takes no integers.
HAS_INT8_CACHE = tuple(int(part) for part in ort.__version__.split(".")[:2]) >= (1, 31)
# No fp16: products of integers in float16 come out wrong (onnxruntime 1.32, docs/targets.md).
CAPABILITIES = frozenset(
    {
        Capability.SEVERAL_ROWS,
        Capability.TREE_ATTENTION,
        Capability.SHARED_CACHE,
        Capability.INT4,
        Capability.DYNAMIC_SHAPES,
        *([Capability.INT8_CACHE] if HAS_INT8_CACHE else []),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuDevice:
    """The CPU through onnxruntime: every session that it opens runs on `threads` threads, in a pool of its own.

    `staged` devices open the sessions of models of several stages, which run one after another. Where it `adapts`, the
    engine takes fewer threads than `threads` while that is faster, as on a busy machine. `awake_us` and `processors`
    are as in `ThreadPool`.
    """

    name: ClassVar[str] = "cpu"
    provider: ClassVar[str] = "CPUExecutionProvider"
    capabilities: ClassVar[frozenset[str]] = CAPABILITIES
    threads: int
    staged: bool = False
    adapts: bool = False
    awake_us: int = AWAKE_US
    processors: tuple[int, ...] = ()

    def for_stages(self) -> CpuDevice:
        """Return this device for the sessions of a model of several stages."""
        return replace(self, staged=True)

    def open_session(self, path: Path) -> ort.InferenceSession:
        """Return a session of the graph in file `path`. Raises: DeviceError when onnxruntime refuses the graph."""
        if not path.is_file():
            raise DeviceError(f"{path} is missing, so no session can be opened on it")
        options = ort.SessionOptions()
        ThreadPool(
            threads=self.threads,
            sleeps_between_runs=self.staged,
            awake_us=self.awake_us,
            processors=self.processors,
        ).set_in(options)
        # Without VNNI, sums of unsigned times signed bytes may overflow 16 bits: then weights become unsigned too.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = LOG_ERRORS
        options.graph_optimization_level = GRAPH_OPTIMIZATION
        try:
            # The fallback would try the same provider again, and print.
            session = ort.InferenceSession(path, options, providers=[self.provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())
            if GLOBAL_POOL in reason:
                raise DeviceError(
                    "another part of this program has already set onnxruntime's thread pool for the whole process, so "
                    "no session may have threads of its own: leave out its set_global_thread_pool_sizes, or load the "
                    "model in a process of its own"
                ) from error
            if NO_MEMORY in reason:
                raise DeviceError(
                    f"{path}: not enough memory to open this graph; free some, give a smaller --context, or take a "
                    "smaller bundle"
                ) from error
            raise DeviceError(f"{path}: onnxruntime {ort.__version__} cannot open this graph: {reason}") from error
        keep_in_forks(session)
        return session

    def at_most(self, threads: int) -> CpuDevice:
        """Return this device with no more threads than so many. Raises: ConfigError for less than one."""
        if threads < 1:
            raise ConfigError(f"max_threads must be at least 1, got {threads}")
        return replace(self, threads=min(self.threads, threads))

    def placed(self, *, threads: int, awake_us: int, processors: tuple[int, ...]) -> CpuDevice:
        """Return this device with other threads; where they were measured, they are the most that is taken."""
        return replace(self, threads=min(threads, self.threads), awake_us=awake_us, processors=processors)

    def workers(self, session: ort.InferenceSession) -> ParkedWorkers:
        return ParkedWorkers(session, self.threads)

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return a buffer with undefined contents. Raises: DeviceError when the memory does not suffice."""
        try:
            return CpuBuffer(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, CpuDevice.name))
        except MemoryError as error:
            raise _no_memory(shape, dtype) from error

    def resident(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return what `allocate` does: all of this device's memory is the host's."""
        return self.allocate(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        """Return a buffer of zeros; the system gives its memory page by page, where it is first touched."""
        try:
            return CpuBuffer.over(np.zeros(shape, dtype))
        except MemoryError as error:
            raise _no_memory(shape, dtype) from error

    def free_bytes(self) -> int | None:
        return free_bytes()

    def total_bytes(self) -> int | None:
        return total_bytes()

    def bind(self, session: ort.InferenceSession) -> CpuBinding:
        return CpuBinding(session)


def _no_memory(shape: Sequence[int], dtype: DTypeLike) -> DeviceError:
    return DeviceError(f"no memory for a {dtype} buffer of shape {list(shape)}; lower --context")


def open_cpu(*, threads: int | None = None, unit: str | None = None) -> CpuDevice:
    """Return the CPU on `threads` threads, by default one for each physical core.

    Raises: ConfigError for a number that no machine has; DeviceError for another unit than the first.
    """
    if unit not in (None, "0"):
        raise DeviceError(f"there is one cpu, no cpu:{unit}; leave the part behind the colon out")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        bound = "at least 1" if threads < 1 else f"at most {MOST_THREADS}"
        raise ConfigError(f"threads must be {bound}, got {threads}")
    return CpuDevice(threads=threads or physical_cores(), adapts=threads is None)
