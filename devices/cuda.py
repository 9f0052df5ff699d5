"""NVIDIA's GPUs, by the CUDA provider of the package `onnxruntime-gpu`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import onnxruntime as ort

from skipstone.devices.capabilities import Capability
from skipstone.devices.cpu import open_cpu
from skipstone.devices.device import Hardware
from skipstone.devices.doors import DOORS
from skipstone.devices.nvidia import NvidiaGpu, find_gpus
from skipstone.devices.plug_ins import require_provider
from skipstone.devices.provider_device import ProviderDevice
from skipstone.errors import DeviceError

__all__ = ["cuda_device", "open_cuda", "provider_options"]

NAME: Final = "cuda"
PROVIDER: Final = "CUDAExecutionProvider"
CAPABILITIES: Final = frozenset(
    {
        Capability.SEVERAL_ROWS,
        Capability.TREE_ATTENTION,
        Capability.SHARED_CACHE,
        Capability.INT4,
        Capability.FP16,
        Capability.DYNAMIC_SHAPES,
    }
)


def open_cuda(*, threads: int | None = None, unit: str | None = None) -> ProviderDevice:
    """Return GPU number `unit`, by default the first; `threads` are for nodes that run on the processor.

    Raises: DeviceError when the provider or the GPU is missing; ConfigError for a number of threads.
    """
    (door,) = (door for door in DOORS if door.name == NAME)
    require_provider(door)
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from their Python packages, where these are installed
    return cuda_device(find_gpus(), threads=threads, unit=unit)


def cuda_device(gpus: Sequence[NvidiaGpu], *, threads: int | None = None, unit: str | None = None) -> ProviderDevice:
    """Return one of the GPUs that were found. Raises: as `open_cuda`."""
    number = int(unit) if unit is not None and unit.isdecimal() else None
    if unit is not None and number is None:
        raise DeviceError(f"{NAME}:{unit} is no device: give the number of a GPU, such as {NAME}:0")
    if not gpus:
        raise DeviceError(
            "onnxruntime-gpu is installed, but NVIDIA's driver shows no GPU here; look at nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )
    number = number or 0
    if number >= len(gpus):
        raise DeviceError(f"{NAME}:{number} is not there: this machine has {NAME}:0 to {NAME}:{len(gpus) - 1}")
    gpu = gpus[number]
    return ProviderDevice(
        name=f"{NAME}:{number}" if number else NAME,
        provider=PROVIDER,
        kind="cuda",
        index=number,
        threads=open_cpu(threads=threads).threads,
        capabilities=CAPABILITIES,
        targets=("cuda",),  # its attention computes in float16 only
        hardware=Hardware("gpu", gpu.name),
        open_graph=partial(_open_graph, number),
        memory_left=gpu.memory,
        takes_offsets=True,
        ignores_positions=True,  # not known without a GPU; right either way, two small nodes a layer
    )


def provider_options(number: int) -> Mapping[str, str]:
    """Return what the provider is told for GPU `number`.

    Products of float32 are not rounded to TF32, and memory is taken as it is needed: caches are large.
    """
    return {"device_id": str(number), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


def _open_graph(number: int, graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=[(PROVIDER, dict(provider_options(number)))])
