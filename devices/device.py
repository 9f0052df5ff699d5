"""What a device is to the rest of the house, and how one is opened by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias, runtime_checkable

import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.buffer import Binding, Buffer
from skipstone.devices.catalog import catalog, registered_devices
from skipstone.errors import DeviceError

__all__ = ["DEFAULT_DEVICE", "BoundedDevice", "Device", "Session", "StagedDevice", "open_device"]

DEFAULT_DEVICE: Final = "cpu"
Session: TypeAlias = ort.InferenceSession
"""A graph that a device has opened: it tells its inputs and outputs, and `run` takes and gives arrays."""


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

    def open_session(self, path: Path) -> Session:
        """Return a session of the graph in file `path`. Raises: DeviceError."""

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return a buffer on the device, its contents undefined. Raises: DeviceError."""

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return a buffer of zeros; memory that is never written costs nothing where the system allows it."""

    def bind(self, session: Session) -> Binding:
        """Return a way to run a session of this device on buffers of this device."""


@runtime_checkable
class StagedDevice(Protocol):
    """A device that opens the sessions of a model of several stages in another way than a single one."""

    def for_stages(self) -> Device:
        """Return this device for the sessions of a model whose stages run one after another."""


@runtime_checkable
class BoundedDevice(Protocol):
    """A device that knows how much of its memory is left."""

    def free_bytes(self) -> int | None:
        """Return the bytes that may still be taken; None where nobody tells."""


def open_device(name: str = DEFAULT_DEVICE, *, threads: int | None = None) -> Device:
    """Return the device called `name`, on `threads` processor threads; by default as many as it finds best.

    Raises: DeviceError when the name is unknown, or the device is not supported or missing here.
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
