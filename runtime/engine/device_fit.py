"""What a device takes: bundles of which targets, calls of several rows, rows that branch."""

from __future__ import annotations

from skipstone.devices import Capability, Device, TargetedDevice
from skipstone.errors import ConfigError, DeviceError
from skipstone.runtime.bundle import Bundle, Manifest

__all__ = ["require_fit", "require_several_rows", "why_chains"]


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


def require_several_rows(device: Device) -> None:
    """Raise ConfigError where a call takes one row behind cached ones, so that no draft can be verified."""
    if Capability.SEVERAL_ROWS not in device.capabilities:
        raise ConfigError(
            f"device {device.name} takes one row a call, so nothing can be drafted there (it has no "
            f"{Capability.SEVERAL_ROWS}); decode plain"
        )


def why_chains(manifest: Manifest, device: Device) -> str | None:
    """Return why rows of a model may not branch on a device; None where they may."""
    if manifest.is_traced:
        return "optimum made the graph"
    if any(layer.window for layer in manifest.cache):
        return "layers see a window"
    needed = (Capability.TREE_ATTENTION, Capability.SEVERAL_ROWS)
    lacks = [capability for capability in needed if capability not in device.capabilities]
    return f"device {device.name} has no {lacks[0]}" if lacks else None
