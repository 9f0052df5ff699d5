"""Whether a device takes a bundle: its graphs were written for a target, with the operators of that."""

from __future__ import annotations

from skipstone.devices import Device, TargetedDevice
from skipstone.errors import DeviceError
from skipstone.runtime.bundle import Bundle

__all__ = ["require_fit"]


def require_fit(bundle: Bundle, device: Device) -> None:
    """Raise DeviceError for a bundle of a target that a device does not take; the message says how to make another."""
    target = bundle.manifest.target
    if isinstance(device, TargetedDevice) and target not in device.targets:
        best, *others = device.targets
        takes = f"{best} and {', '.join(others)}" if others else best
        raise DeviceError(
            f"{bundle.path} was made for the target {target}, and device {device.name} takes {takes}; make one with "
            f"`skipstone export CHECKPOINT -o OUT --target {best}`"
        )
