"""A device by the name that a person types: `cpu`, `cuda:1`, or `auto` for the best that works."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TypeAlias

from skipstone.devices.device import DEFAULT_DEVICE, Device, HardwareDevice
from skipstone.devices.doors import AUTO, DOORS, own_devices, registered_devices
from skipstone.devices.probe import probe
from skipstone.errors import DeviceError, SkipstoneError

__all__ = ["DeviceChoice", "choose_device", "open_device", "split_name"]

Accept: TypeAlias = Callable[[Device], None]
"""Raises SkipstoneError for a device that does not suit."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device, and why `auto` took it; None where it was named. `fell_back`: nothing but the default worked."""

    device: Device
    told: str | None = None
    fell_back: bool = False


def open_device(name: str = DEFAULT_DEVICE, *, threads: int | None = None) -> Device:
    """Return the device called `name`, on `threads` processor threads; by default as many as it finds best.

    A name may have a unit behind a colon: `cuda:1` is the second one. `auto` is the best one that works; for any other
    name never is another device opened in its place. Raises: DeviceError when the name is unknown, or the device is not
    supported or missing here.
    """
    return choose_device(name, threads=threads).device


def choose_device(
    name: str = DEFAULT_DEVICE, *, threads: int | None = None, accept: Accept = lambda device: None
) -> DeviceChoice:
    """Return a device as `open_device` does; for `auto` one that `accept` takes too, with the reason."""
    return _best(threads, accept) if name.strip().lower() == AUTO else DeviceChoice(_named(name, threads))


def _best(threads: int | None, accept: Accept) -> DeviceChoice:
    """Return the first device with hardware of its own that opens, runs a graph and is accepted; else the default."""
    left_out = []
    for name in registered_devices():
        if name == DEFAULT_DEVICE:
            continue
        try:
            device = _named(name, threads)
            if not isinstance(device, HardwareDevice) or device.hardware.kind == "processor":
                raise DeviceError("it runs on the processor too, where cpu is the one we measure")
            probe(device)
            accept(device)
        except SkipstoneError as error:
            left_out.append(f"{name}: {error}")
            continue
        return DeviceChoice(device, _told(f"{device.name}, {device.hardware.name}", left_out))
    device = _named(DEFAULT_DEVICE, threads)
    accept(device)
    return DeviceChoice(device, _told(device.name, left_out), fell_back=True)


def _told(taken: str, left_out: Sequence[str]) -> str:
    return f"device auto takes {taken}" + "".join(f"; not {reason}" for reason in left_out)


def _named(name: str, threads: int | None) -> Device:
    base, unit = split_name(name)
    if base in (own := own_devices()):  # without a look at all packages that are installed
        return _open(own[base], unit, threads)
    registered = registered_devices()
    if base in registered:
        return _open(registered[base], unit, threads)
    for door in DOORS:
        if door.name == base:
            raise DeviceError(f"device {base} cannot be opened: {door.why_closed}")
    if base == AUTO:
        raise DeviceError(f"device {name!r} has a unit, but auto chooses itself; give {AUTO}, or name the device")
    raise DeviceError(f"device {name!r} is not known; {_known(base, registered)}")


def split_name(name: str) -> tuple[str, str | None]:
    """Return the device of a name, and its unit; None where none is named, as the first is meant.

    Raises: DeviceError for a colon with nothing on one of its sides.
    """
    base, colon, unit = name.strip().lower().partition(":")
    if not base or (colon and not unit) or ":" in unit:
        raise DeviceError(f"device {name!r} is no name; give one such as cpu, or cuda:1 for the second of its kind")
    return base, unit or None


def _open(entry: EntryPoint, unit: str | None, threads: int | None) -> Device:
    try:
        factory = entry.load()
    except Exception as error:  # whatever is wrong with another package
        raise DeviceError(f"device {entry.name} cannot be loaded from {entry.value}: {error}") from error
    options = {} if unit is None else {"unit": unit}
    device: Device = factory(threads=threads, **options)
    return device


def _known(name: str, registered: Mapping[str, EntryPoint]) -> str:
    """Say which names are known, the nearest one first where there is one."""
    known = [*registered, *(door.name for door in DOORS if door.name not in registered), AUTO]
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"known are {', '.join(known)}"
