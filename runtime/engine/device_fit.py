"""What a device takes: bundles of which targets, calls of several rows, rows that branch."""

from __future__ import annotations

from skipstone.devices import Capability, Device, TargetedDevice
from skipstone.errors import ConfigError, DeviceError
from skipstone.runtime.bundle import Bundle, Manifest

__all__ = ["require_fit", "require_several_rows", "why_chains"]


def require_fit(bundle: Bundle, device: Device) -> None:
    """Raise DeviceError for a bundle that a device does not take; the message says how to make another."""
    manifest, best = bundle.manifest, "ort"
    if isinstance(device, TargetedDevice):
        best, *others = device.targets
        if manifest.target not in device.targets:
            takes = f"{best} and {', '.join(others)}" if others else best
            raise _unfit(
                bundle, f"was made for the target {manifest.target}, and device {device.name} takes {takes}", best
            )
    if manifest.numbers == "float16" and Capability.FP16 not in device.capabilities:
        raise _unfit(bundle, f"computes in float16, and device {device.name} has no {Capability.FP16}", best)
    if manifest.buckets is None and Capability.DYNAMIC_SHAPES not in device.capabilities:
        lack = f"takes any number of rows, and device {device.name} has no {Capability.DYNAMIC_SHAPES}"
        raise _unfit(bundle, lack, best)


def _unfit(bundle: Bundle, reason: str, target: str) -> DeviceError:
    return DeviceError(f"{bundle.path} {reason}; make one with `skipstone export CHECKPOINT -o OUT --target {target}`")


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
