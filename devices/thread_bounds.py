"""A device on no more threads than somebody allows."""

from __future__ import annotations

from skipstone.devices.device import Device, ThreadedDevice
from skipstone.errors import ConfigError

__all__ = ["bounded"]


def bounded(device: Device, *, threads: int | None, max_threads: int | None) -> Device:
    """Return a device that takes at most `max_threads`, None for as many as it likes; `threads` are those it was given.

    Raises: ConfigError where both are given, or the device does not choose how many it takes.
    """
    if max_threads is None:
        return device
    if threads is not None:
        raise ConfigError(f"threads are fixed to {threads}, so max_threads says nothing more: give one of the two")
    if not isinstance(device, ThreadedDevice):
        raise ConfigError(f"max_threads is for devices that choose their threads, which {device.name} does not")
    return device.at_most(max_threads)
