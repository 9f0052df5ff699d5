"""What a device is to the rest of the house."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import onnxruntime as ort
from numpy.typing import DTypeLike

from skipstone.devices.buffer import Binding, Buffer

__all__ = [
    "DEFAULT_DEVICE",
    "BoundedDevice",
    "Device",
    "Hardware",
    "HardwareDevice",
    "Session",
    "SizedDevice",
    "StagedDevice",
    "ThreadedDevice",
    "Workers",
]

DEFAULT_DEVICE: Final = "cpu"
Session: TypeAlias = ort.InferenceSession
"""A graph that a device has opened: it tells its inputs and outputs, and `run` takes and gives arrays."""


class Device(Protocol):
    """A place where graphs run: it opens sessions, has memory, and ties the two together.

    A package brings one by an entry point of the group `skipstone.devices`, whose value is a factory: it takes
    `threads` (a number or None) and, where the device takes a unit behind a colon, `unit` (a string or None). The
    factory raises DeviceError, with the reason, where the device cannot work here. It is quick: it opens no session.
    What else a device may tell stands in `StagedDevice`, `BoundedDevice`, `SizedDevice`, `HardwareDevice` and
    `TargetedDevice`.
    """

    @property
    def name(self) -> str:
        """What `open_device` calls it, with its unit where that is not the first: `cpu`, `cuda:1`."""

    @property
    def provider(self) -> str:
        """Its execution provider in onnxruntime."""

    @property
    def threads(self) -> int:
        """Processor threads that a model call uses."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, see `Capability`. What is not here is planned around, or refused with the reason."""

    def open_session(self, path: Path) -> Session:
        """Return a session of the graph in file `path`. Raises: DeviceError."""

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return a buffer that the host sees, its contents undefined: what goes into calls and comes out of them.

        Raises: DeviceError where there is no memory.
        """

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return such a buffer of zeros; memory that is never written costs nothing where the system allows it."""

    def resident(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return a buffer that stays on the device, its contents undefined: caches, and states between graphs.

        Its `move` and `copy_from` run there. The host may read and write it, but that costs a copy over the bus. Where
        host and device share their memory it is what `allocate` gives. Raises: DeviceError where there is no memory.
        """
        return self.allocate(shape, dtype)

    def bind(self, session: Session) -> Binding:
        """Return a way to run a session of this device on buffers of this device."""


@runtime_checkable
class StagedDevice(Protocol):
    """A device that opens the sessions of a model of several stages in another way than a single one."""

    def for_stages(self) -> Device:
        """Return this device for the sessions of a model whose stages run one after another."""


class Workers(Protocol):
    """The threads of one session."""

    def use(self, threads: int) -> None:
        """Let so many threads work from the next run on."""

    def close(self) -> None:
        """Let all threads go, so that the session may be dropped."""


@runtime_checkable
class ThreadedDevice(Protocol):
    """A device whose sessions can run on fewer threads than they were opened with, without any change of a bit."""

    @property
    def adapts(self) -> bool:
        """Whether they shall, where that is faster; not where somebody named a number of threads."""

    def at_most(self, threads: int) -> Device:
        """Return this device on no more threads than so many. Raises: ConfigError for less than one."""

    def placed(self, *, threads: int, awake_us: int, processors: tuple[int, ...]) -> Device:
        """Return this device on at most so many threads, which stay awake for `awake_us` when idle, on `processors`."""

    def workers(self, session: Session) -> Workers:
        """Return the threads of a session of this device. Whoever asks closes them before the session is dropped."""


@runtime_checkable
class BoundedDevice(Protocol):
    """A device that knows how much of its memory is left."""

    def free_bytes(self) -> int | None:
        """Return the bytes that may still be taken; None where nobody tells."""


@runtime_checkable
class SizedDevice(Protocol):
    """A device that knows how much memory it has."""

    def total_bytes(self) -> int | None:
        """Return the bytes of all its memory, taken or not; None where nobody tells."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a device runs on: its kind, and its name as the driver tells it."""

    kind: Literal["processor", "gpu", "npu"]
    name: str


@runtime_checkable
class HardwareDevice(Protocol):
    """A device that knows what it runs on. One that does not say is taken for a processor: `auto` prefers none of them.

    A software adapter of a graphics interface is a processor too.
    """

    @property
    def hardware(self) -> Hardware:
        """What it runs on."""


@runtime_checkable
class TargetedDevice(Protocol):
    """A device that takes bundles of some targets only; one that does not say takes all."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of `export --target`, the best one first."""
