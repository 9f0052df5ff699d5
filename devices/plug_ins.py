"""Execution providers here: those built into onnxruntime, and those of a package that it loads as plug-ins."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import onnxruntime as ort

from skipstone.devices.doors import Door
from skipstone.errors import DeviceError

__all__ = ["provider_devices", "require_provider"]


class _PlugIn(Protocol):
    """What a package with a plug-in provider has, by onnxruntime's convention."""

    def get_library_path(self) -> str: ...


def require_provider(door: Door) -> None:
    """Make the provider of a door known to onnxruntime. Raises: DeviceError where it is missing or cannot be loaded."""
    if door.provider in ort.get_available_providers():
        return
    if door.package is None or find_spec(door.package) is None:
        raise DeviceError(f"{door.provider} is not installed here; it comes with: {door.install}")
    _load(door.provider, door.package)


def provider_devices(door: Door) -> Sequence[ort.OrtEpDevice]:
    """Return what the provider of a door could run on here, as onnxruntime lists it. Raises: as `require_provider`."""
    require_provider(door)
    return [device for device in ort.get_ep_devices() if device.ep_name == door.provider]


@functools.cache  # onnxruntime takes a library once for a process
def _load(provider: str, package: str) -> None:
    if any(device.ep_name == provider for device in ort.get_ep_devices()):
        return  # another part of the program was first
    try:
        plug_in = cast(_PlugIn, import_module(package))
        ort.register_execution_provider_library(provider, plug_in.get_library_path())
    except Exception as error:  # onnxruntime's errors have no base of their own
        reason = " ".join(str(error).split())
        raise DeviceError(f"the plug-in {package} is installed, but cannot be loaded: {reason}") from error
