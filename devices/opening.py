"""A device by the name that a person types: `cpu`, `cuda:1`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint

from skipstone.devices.device import DEFAULT_DEVICE, Device
from skipstone.devices.doors import AUTO, DOORS, registered_devices
from skipstone.errors import DeviceError

__all__ = ["open_device", "split_name"]


def open_device(name: str = DEFAULT_DEVICE, *, threads: int | None = None) -> Device:
    """Return the device called `name`, on `threads` processor threads; by default as many as it finds best.

    A name may have a unit behind a colon: `cuda:1` is the second one. Never is another device opened in its place.
    Raises: DeviceError when the name is unknown, or the device is not supported or missing here.
    """
    base, unit = split_name(name)
    registered = registered_devices()
    if base in registered:
        return _open(registered[base], unit, threads)
    for door in DOORS:
        if door.name == base:
            raise DeviceError(f"device {base} cannot be opened: {door.why_closed}")
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
