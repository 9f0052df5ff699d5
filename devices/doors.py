"""The devices that we know by name, one row each: its provider, what brings it, and what opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from skipstone.errors import DeviceError

__all__ = ["AUTO", "DOORS", "Door", "own_devices", "registered_devices"]

GROUP = "skipstone.devices"
AUTO: Final = "auto"
"""The name for the best device that works here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A device that we know. `opener` is the factory of its own file; a row without one is only a door.

    `install` says what brings its provider. `package` is the Python package of a provider that onnxruntime loads as a
    plug-in; None where it is built into onnxruntime, or into another wheel of it. `why_closed` says why there is no
    opener.
    """

    name: str
    provider: str
    install: str
    package: str | None = None
    opener: str | None = None
    why_closed: str = "not yet supported"


# The order is that in which `auto` looks: what is quickest first.
DOORS: Final = (
    Door(
        name="cuda",
        provider="CUDAExecutionProvider",
        install="pip install onnxruntime-gpu, in place of onnxruntime",
        opener="skipstone.devices.cuda:open_cuda",
    ),
    Door(
        name="tensorrt-rtx",
        provider="NvTensorRTRTXExecutionProvider",
        install="an onnxruntime built with TensorRT-RTX; no package index has one",
        why_closed="no bundle was ever tried on it; use cuda",
    ),
    Door(
        name="coreml",
        provider="CoreMLExecutionProvider",
        install="pip install onnxruntime on macOS",
        why_closed="no bundle was ever run on it; `skipstone check-target BUNDLE coreml` says what it would take",
    ),
    Door(
        name="directml",
        provider="DmlExecutionProvider",
        install="pip install onnxruntime-directml on Windows, in place of onnxruntime",
        why_closed="no bundle was ever tried on it, and onnxruntime adds no more to it; use webgpu",
    ),
    Door(
        name="webgpu",
        provider="WebGpuExecutionProvider",
        install="pip install onnxruntime-ep-webgpu",
        package="onnxruntime_ep_webgpu",
        opener="skipstone.devices.webgpu:open_webgpu",
    ),
    Door(
        name="openvino",
        provider="OpenVINOExecutionProvider",
        install="pip install onnxruntime-openvino, in place of onnxruntime",
        opener="skipstone.devices.openvino:open_openvino",
    ),
    Door(
        name="qnn",
        provider="QNNExecutionProvider",
        install="pip install onnxruntime-qnn on a Snapdragon machine",
        package="onnxruntime_qnn",
        why_closed="an app runs it, not Python: see `skipstone check-target BUNDLE qnn`",
    ),
    Door(
        name="nnapi",
        provider="NnapiExecutionProvider",
        install="the onnxruntime-android package, in an app",
        why_closed="an app runs it, not Python: see `skipstone check-target BUNDLE nnapi`",
    ),
    Door(
        name="xnnpack",
        provider="XnnpackExecutionProvider",
        install="the onnxruntime-android or onnxruntime-c package, in an app",
        why_closed="an app runs it, not Python: see `skipstone check-target BUNDLE xnnpack`",
    ),
    Door(
        name="cpu",
        provider="CPUExecutionProvider",
        install="pip install onnxruntime",
        opener="skipstone.devices.cpu:open_cpu",
    ),
)


def own_devices() -> Mapping[str, EntryPoint]:
    """Return what opens our own devices, by name."""
    return {door.name: EntryPoint(name=door.name, value=door.opener, group=GROUP) for door in DOORS if door.opener}


def registered_devices() -> Mapping[str, EntryPoint]:
    """Return what opens devices, by name: our own, then those of other packages.

    Raises: DeviceError when two have the same name, or one has a name that means something else.
    """
    devices: dict[str, EntryPoint] = {}
    for entry in (*own_devices().values(), *entry_points(group=GROUP)):
        if entry.name in devices:
            raise DeviceError(
                f"the device {entry.name} is registered twice, by {devices[entry.name].value} and {entry.value}: "
                "uninstall one of the two packages"
            )
        if entry.name == AUTO or ":" in entry.name:
            raise DeviceError(f"{entry.value} cannot register a device as {entry.name!r}: the name has a meaning here")
        devices[entry.name] = entry
    return devices
