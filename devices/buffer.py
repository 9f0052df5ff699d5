"""Memory of a device, and graphs tied to it: made by `Device.allocate`, `Device.zeros` and `Device.bind`."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Binding", "Buffer", "Place"]

Place: TypeAlias = "EllipsisType | slice | tuple[int | slice | NDArray[np.int64] | Sequence[int], ...]"
"""Which part of a buffer, as numpy writes it: `[:, :, 3:5]` is `np.s_[:, :, 3:5]`."""


class Buffer(Protocol):
    """Numbers of one type in one piece of a device's memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many numbers along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""

    def read(self, at: Place = ...) -> NDArray[Any]:
        """Return the numbers at a place, for reading only; valid until the buffer changes: it may be the same memory.

        Cost: what is read, where the memory is not the host's.
        """

    def write(self, values: ArrayLike, at: Place = ...) -> None:
        """Put numbers, broadcast as numpy does, at a place of the buffer."""

    def view(self, at: Place) -> Buffer:
        """Return a part that lies in one piece, over the same memory."""

    def flat(self) -> Buffer:
        """Return the same memory as one row of numbers."""

    def move(self, source: Place, target: Place) -> None:
        """Put the numbers of one place at another; the two may overlap."""

    def copy_from(self, other: Buffer, at: Place) -> None:
        """Take over the numbers that another buffer of this device holds at a place."""


class Binding(Protocol):
    """A graph tied to the buffers that it reads and writes, run again and again."""

    def read_from(self, name: str, buffer: Buffer, shape: tuple[int, ...] | None = None) -> None:
        """Let the input `name` read a buffer; of a larger one its first numbers, as `shape`."""

    def write_to(self, name: str, buffer: Buffer) -> None:
        """Let the output `name` fill a buffer."""

    def run(self) -> None:
        """Run the graph once. Raises: Cancelled; see `run_cancellable`."""
