"""What a device is to the rest of the house, and how one is opened by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.catalog import catalog, registered_devices
from skipstone.errors import DeviceError

__all__ = ["Device", "open_device"]


class Device(Protocol):
    """A place where graphs run."""

    @property
    def name(self) -> str:
        """What `open_device` calls it."""

    @property
    def provider(self) -> str:
        """Its execution provider in onnxruntime."""

    @property
    def threads(self) -> int:
        """Processor threads that a model call uses."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What its kernels can do: int4, int8-cache, tree-attention, shared-cache."""

    @property
    def binding_device(self) -> str:
        """What io binding calls the memory that `allocate` gives."""

    def open_session(self, path: Path) -> ort.InferenceSession:
        """Return a session of the graph in file `path`. Raises: DeviceError."""

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> ort.OrtValue:
        """Return a buffer on the device, its contents undefined. Raises: DeviceError."""


def open_device(name: str = "cpu", *, threads: int | None = None) -> Device:
    """Return the device called `name`, on `threads` processor threads; by default as many as it finds best.

    Raises: DeviceError when the name is unknown, the device is not supported or missing here, or `threads` differs from
    what this process already runs on.
    """
    registered = registered_devices()
    if name in registered:
        device: Device = registered[name].load()(threads=threads)
        return device
    missing = {info.name: info for info in catalog() if not info.available}
    if name not in missing:
        raise DeviceError(f"device {name!r} is not known; known are {', '.join([*registered, *missing])}")
    info = missing[name]
    install = f"; its provider comes with: {info.install}" if info.install else ""
    raise DeviceError(f"device {name} cannot be opened: {info.why}; use cpu{install}")
