"""NVIDIA's GPUs, as their driver tells of them: how many, their names, and what memory is left."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["NvidiaGpu", "find_gpus"]

NAME_BYTES: Final = 128
DRIVER, MANAGEMENT = ("nvcuda.dll", "nvml.dll") if sys.platform == "win32" else ("libcuda.so.1", "libnvidia-ml.so.1")


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """One GPU in the order of CUDA, in which `CUDA_VISIBLE_DEVICES` counts; `address` is its place on the PCI bus."""

    name: str
    address: bytes

    def memory(self, library: Any = None) -> tuple[int | None, int | None]:
        """Return the bytes that are free and all there are; None where the driver's library does not tell."""
        nvml = _load(MANAGEMENT) if library is None else library
        if nvml is None or nvml.nvmlInit_v2():
            return None, None
        handle, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()  # total, free, used
        if nvml.nvmlDeviceGetHandleByPciBusId_v2(self.address, ctypes.byref(handle)):
            return None, None
        failed = nvml.nvmlDeviceGetMemoryInfo(handle, memory)
        return (None, None) if failed else (memory[1], memory[0])


def find_gpus(library: Any = None) -> list[NvidiaGpu]:
    """Return the GPUs that CUDA sees; none where there is no driver. `library` stands in for that of the driver."""
    cuda = _load(DRIVER) if library is None else library
    count = ctypes.c_int()
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_gpu(cuda, number) for number in range(count.value)]


def _gpu(cuda: Any, number: int) -> NvidiaGpu:
    device = ctypes.c_int()
    name, address = ctypes.create_string_buffer(NAME_BYTES), ctypes.create_string_buffer(NAME_BYTES)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, NAME_BYTES, device)
    cuda.cuDeviceGetPCIBusId(address, NAME_BYTES, device)
    return NvidiaGpu(name.value.decode(errors="replace"), address.value)


def _load(name: str) -> Any:
    with contextlib.suppress(OSError):
        return ctypes.CDLL(name)
    return None
