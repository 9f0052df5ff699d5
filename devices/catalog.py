"""Which devices there are: those that can be opened, and those that we know of, with the reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points

import onnxruntime as ort

from skipstone.devices.cpu import CpuDevice
from skipstone.devices.threads import physical_cores
from skipstone.errors import DeviceError

__all__ = ["DeviceInfo", "catalog", "registered_devices"]

GROUP = "skipstone.devices"
# The value of an entry point is a factory: it takes `threads` (a number or None) and returns a Device.
OUR_DEVICES = (EntryPoint(name="cpu", value="skipstone.devices.cpu:open_cpu", group=GROUP),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """One device, for people to read.

    `provider` is onnxruntime's execution provider; for a device of another package, the entry point that opens it.
    `threads` is what it takes by default, None where that does not apply. `why` and `install` say what an unavailable
    device lacks and what would bring its provider; they are None for an available one.
    """

    name: str
    provider: str
    available: bool
    threads: int | None = None
    capabilities: frozenset[str] = frozenset()
    why: str | None = None
    install: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A device that this version knows and cannot open; `package` is the Python package of a plug-in provider."""

    name: str
    provider: str
    install: str
    package: str | None = None

    def info(self) -> DeviceInfo:
        here = self.provider in ort.get_available_providers() or (self.package is not None and _installed(self.package))
        provider = f"{self.provider} is {'installed here' if here else 'not installed here either'}"
        why = f"not yet supported, this version runs on cpu ({provider})"
        return DeviceInfo(
            name=self.name, provider=self.provider, available=False, why=why, install=None if here else self.install
        )


PLANNED = (
    _Planned(name="cuda", provider="CUDAExecutionProvider", install="pip install onnxruntime-gpu"),
    _Planned(
        name="webgpu",
        provider="WebGpuExecutionProvider",
        install="pip install onnxruntime-ep-webgpu",
        package="onnxruntime-ep-webgpu",
    ),
    _Planned(name="coreml", provider="CoreMLExecutionProvider", install="pip install onnxruntime on macOS"),
    _Planned(
        name="qnn",
        provider="QNNExecutionProvider",
        install="pip install onnxruntime-qnn on a Snapdragon machine",
        package="onnxruntime-qnn",
    ),
    _Planned(name="nnapi", provider="NnapiExecutionProvider", install="the onnxruntime-android package"),
    _Planned(name="xnnpack", provider="XnnpackExecutionProvider", install="the onnxruntime-android package"),
)


def catalog() -> tuple[DeviceInfo, ...]:
    """Return every device we know, those that can be opened first. Opens none."""
    cpu = DeviceInfo(
        name=CpuDevice.name,
        provider=CpuDevice.provider,
        available=True,
        threads=physical_cores(),
        capabilities=CpuDevice.capabilities,
    )
    registered = registered_devices()
    outside = [
        DeviceInfo(name=name, provider=entry.value, available=True)
        for name, entry in registered.items()
        if entry not in OUR_DEVICES
    ]
    return (cpu, *outside, *(device.info() for device in PLANNED if device.name not in registered))


def registered_devices() -> Mapping[str, EntryPoint]:
    """Return the devices that can be opened, ours and those of other packages, by name.

    Raises: DeviceError when two have the same name.
    """
    devices: dict[str, EntryPoint] = {}
    for entry in (*OUR_DEVICES, *entry_points(group=GROUP)):
        if entry.name in devices:
            raise DeviceError(
                f"the device {entry.name} is registered twice, by {devices[entry.name].value} and {entry.value}: "
                "uninstall one of the two packages"
            )
        devices[entry.name] = entry
    return devices


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
