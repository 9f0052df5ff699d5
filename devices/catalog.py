"""Which devices there are: those that open here, and those that we know of, with the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.devices.device import DEFAULT_DEVICE, BoundedDevice, Device, HardwareDevice, SizedDevice
from skipstone.devices.doors import DOORS, Door, registered_devices
from skipstone.devices.opening import open_device
from skipstone.devices.plug_ins import require_provider
from skipstone.devices.probe import probe
from skipstone.errors import DeviceError

__all__ = ["DeviceInfo", "catalog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """One device, for people to read.

    `provider` is onnxruntime's execution provider; for a device of another package that does not open, its entry point.
    `threads` is what it takes by default. `hardware` is what it runs on, and the bytes are those of its memory: None
    where it does not tell. `why` and `install` say what an unavailable device lacks and what would bring its provider;
    they are None for an available one.
    """

    name: str
    provider: str
    available: bool
    threads: int | None = None
    hardware: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    capabilities: frozenset[str] = frozenset()
    why: str | None = None
    install: str | None = None

    @classmethod
    def of(cls, device: Device) -> DeviceInfo:
        """Return what an opened device tells of itself."""
        return cls(
            name=device.name,
            provider=device.provider,
            available=True,
            threads=device.threads,
            hardware=device.hardware.name if isinstance(device, HardwareDevice) else None,
            free_bytes=device.free_bytes() if isinstance(device, BoundedDevice) else None,
            total_bytes=device.total_bytes() if isinstance(device, SizedDevice) else None,
            capabilities=frozenset(map(str, device.capabilities)),
        )


def catalog() -> tuple[DeviceInfo, ...]:
    """Return every device we know, those that work here first.

    Each that opens runs a graph of one operator: what is here but broken is not available, and says why.
    Cost: milliseconds for the processor, up to seconds where a driver starts.
    """
    doors = {door.name: door for door in DOORS}
    names = dict.fromkeys([DEFAULT_DEVICE, *registered_devices(), *doors])
    infos = [_info(name, doors.get(name)) for name in names]
    return tuple(sorted(infos, key=lambda info: not info.available))


def _info(name: str, door: Door | None) -> DeviceInfo:
    try:
        device = open_device(name)
        probe(device)
        return DeviceInfo.of(device)
    except DeviceError as error:
        if door is None:
            provider = registered_devices()[name].value
            return DeviceInfo(name=name, provider=provider, available=False, why=str(error))
        return DeviceInfo(
            name=name,
            provider=door.provider,
            available=False,
            why=str(error) if door.opener else door.why_closed,
            install=None if _is_here(door) else door.install,
        )


def _is_here(door: Door) -> bool:
    try:
        require_provider(door)
    except DeviceError:
        return False
    return True
