"""GPUs through WebGPU: Vulkan, Direct3D 12 or Metal, by the plug-in provider `onnxruntime-ep-webgpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnxruntime as ort

from skipstone.devices.capabilities import Capability
from skipstone.devices.cpu import open_cpu
from skipstone.devices.device import Hardware
from skipstone.devices.doors import DOORS
from skipstone.devices.free_memory import free_bytes
from skipstone.devices.plug_ins import provider_devices
from skipstone.devices.provider_device import ProviderDevice
from skipstone.errors import DeviceError

__all__ = ["open_webgpu"]

SOFTWARE: Final = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
NAME: Final = "webgpu"
# No int8 cache: attention of the plug-in 0.4.0 opens such a graph and fails when it runs.
CAPABILITIES: Final = frozenset(
    {
        Capability.SEVERAL_ROWS,
        Capability.TREE_ATTENTION,
        Capability.SHARED_CACHE,
        Capability.INT4,
        Capability.DYNAMIC_SHAPES,
    }
)


def open_webgpu(*, threads: int | None = None, unit: str | None = None) -> ProviderDevice:
    """Return the GPU that WebGPU takes; it has no other. `threads` are for nodes that run on the processor.

    Raises: DeviceError when the plug-in is missing or finds no GPU; ConfigError for a number of threads.
    """
    if unit not in (None, "0"):
        raise DeviceError(f"{NAME}:{unit} cannot be opened: WebGPU takes the first GPU only; give {NAME}")
    (door,) = (door for door in DOORS if door.name == NAME)
    found = provider_devices(door)
    if not found:
        raise DeviceError(
            f"{door.package} is installed, but finds no GPU here with a driver of Vulkan, Direct3D 12 or Metal; for "
            f"tests, {SOFTWARE}=1 lets it take a software driver"
        )
    device = found[0]

    def open_graph(graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
        options.add_provider_for_devices([device], {})
        return ort.InferenceSession(graph, options)

    return ProviderDevice(
        name=NAME,
        provider=door.provider,
        kind="webgpu",
        index=0,
        threads=open_cpu(threads=threads).threads,
        capabilities=CAPABILITIES,
        targets=("ort", "android-cpu"),
        hardware=_hardware(device),
        open_graph=open_graph,
        memory_left=_host_memory,
        takes_offsets=False,
        fails_silently=True,
        ignores_positions=True,  # as of plug-in 0.4.0
    )


def _hardware(device: ort.OrtEpDevice) -> Hardware:
    if device.device.type == ort.OrtHardwareDeviceType.GPU:
        return Hardware("gpu", f"{device.device.vendor} GPU")
    return Hardware("processor", "software adapter")


def _host_memory() -> tuple[int | None, int | None]:
    """Return the free bytes of the host: WebGPU tells nothing of its memory, and small GPUs share that of the host."""
    return free_bytes(), None
