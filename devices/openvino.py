"""Processors, GPUs and NPUs through OpenVINO: the provider of `onnxruntime-openvino`, over the host's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.capabilities import Capability
from skipstone.devices.cpu import open_cpu
from skipstone.devices.cpu_memory import CpuBinding, CpuBuffer
from skipstone.devices.device import Hardware
from skipstone.devices.doors import DOORS
from skipstone.devices.forks import keep_in_forks
from skipstone.devices.free_memory import free_bytes, total_bytes
from skipstone.devices.plug_ins import require_provider
from skipstone.devices.thread_pool import ThreadPool
from skipstone.errors import DeviceError

__all__ = ["OpenVinoDevice", "open_openvino"]

NAME: Final = "openvino"
UNITS: Final = {"cpu": "processor", "gpu": "gpu", "npu": "npu"}
LOG_FATAL: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoDevice:
    """OpenVINO on one kind of hardware, its `unit`; attention, which it leaves there, on the processor.

    OpenVINO compiles the pieces of a graph between two attention nodes, and each takes `threads` of its own.
    """

    provider: ClassVar[str] = "OpenVINOExecutionProvider"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            Capability.SEVERAL_ROWS,
            Capability.TREE_ATTENTION,
            Capability.SHARED_CACHE,
            Capability.INT4,
            Capability.DYNAMIC_SHAPES,
        }
    )
    targets: ClassVar[tuple[str, ...]] = ("ort", "android-cpu")
    unit: str
    threads: int

    @property
    def name(self) -> str:
        return NAME if self.unit == "cpu" else f"{NAME}:{self.unit}"

    @property
    def hardware(self) -> Hardware:
        return Hardware(UNITS[self.unit], f"OpenVINO on {self.unit.upper()}")  # type: ignore[arg-type]

    def open_session(self, path: Path) -> ort.InferenceSession:
        """Return a session of the graph in file `path`. Raises: DeviceError when OpenVINO refuses the graph."""
        if not path.is_file():
            raise DeviceError(f"{path} is missing, so no session can be opened on it")
        options = ort.SessionOptions()
        ThreadPool(threads=self.threads, sleeps_between_runs=True).set_in(options)
        options.log_severity_level = LOG_FATAL  # it logs each error that it raises
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings = {"device_type": self.unit.upper(), "num_of_threads": str(self.threads)}
        try:
            providers = [(self.provider, settings), "CPUExecutionProvider"]
            session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())
            raise DeviceError(f"{path}: OpenVINO cannot open this graph on {self.unit.upper()}: {reason}") from error
        if self.provider not in session.get_providers():
            raise DeviceError(
                f"device {self.name} is broken here: {self.provider} does not start, and onnxruntime took the "
                "processor; install onnxruntime-openvino again, or give --device cpu"
            )
        keep_in_forks(session)
        return session

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        return open_cpu(threads=self.threads).allocate(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        return open_cpu(threads=self.threads).zeros(shape, dtype)

    def resident(self, shape: Sequence[int], dtype: DTypeLike) -> CpuBuffer:
        return self.allocate(shape, dtype)

    def bind(self, session: ort.InferenceSession) -> CpuBinding:
        return CpuBinding(session)

    def free_bytes(self) -> int | None:
        return free_bytes()

    def total_bytes(self) -> int | None:
        return total_bytes()


def open_openvino(*, threads: int | None = None, unit: str | None = None) -> OpenVinoDevice:
    """Return OpenVINO on the processor, or on `openvino:gpu` or `openvino:npu`.

    Raises: DeviceError where the provider is missing, or for another unit; ConfigError for a number of threads.
    """
    (door,) = (door for door in DOORS if door.name == NAME)
    unit = "cpu" if unit in (None, "0") else unit
    if unit not in UNITS:
        units = ", ".join(f"{NAME}:{unit}" for unit in UNITS)
        raise DeviceError(f"there is no {NAME}:{unit}; known are {units}")
    require_provider(door)
    return OpenVinoDevice(unit=unit, threads=open_cpu(threads=threads).threads)
