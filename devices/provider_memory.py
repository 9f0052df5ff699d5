"""Memory of an execution provider's device: buffers that stay there, which small graphs read, write and move.

The host sees none of it. A buffer is one piece of memory, addressed in rows: its last axis, or single numbers where it
has one axis. A view has rows of a buffer; a graph that is bound to a view works on a copy of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, DTypeLike, NDArray

from skipstone.devices.buffer import Place
from skipstone.devices.row_graphs import RowGraphs, Rows
from skipstone.errors import DeviceError

__all__ = ["ProviderBuffer", "ProviderMemory"]


class ProviderMemory:
    """What allocates on one device; `kind` and `index` are how onnxruntime calls the device, such as `cuda` and 1."""

    def __init__(self, kind: str, index: int, graphs: RowGraphs, *, takes_offsets: bool) -> None:
        """With `takes_offsets` an address may point into a buffer, so that a view in one piece needs no copy."""
        self.kind, self.index, self.graphs, self.takes_offsets = kind, index, graphs, takes_offsets

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> ProviderBuffer:
        """Return a buffer with undefined contents. Raises: DeviceError when the memory does not suffice."""
        numpy_type = np.dtype(dtype)
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), numpy_type.type, self.kind, self.index)
        except Exception as error:  # onnxruntime's errors have no base of their own
            megabytes = math.prod(shape) * numpy_type.itemsize / 1e6
            raise DeviceError(
                f"{self.kind}:{self.index} has no memory for a buffer of {megabytes:,.1f} MB: lower --context, take a "
                f"smaller bundle, or --cache int8 ({' '.join(str(error).split())})"
            ) from error
        return ProviderBuffer(self, value, tuple(shape), numpy_type)


class ProviderBuffer:
    """A buffer on the device of a provider, or rows of one; see `Buffer`."""

    def __init__(
        self,
        memory: ProviderMemory,
        value: ort.OrtValue,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """`rows` are the numbers of the rows of `value` that a view has, shaped as the view; None is all of them."""
        self.memory, self.value, self.shape, self.dtype = memory, value, shape, dtype
        self.rows = rows
        first = 0 if rows is None or not rows.size else int(rows.flat[0])
        self.address = int(value.data_ptr()) + first * self.row_bytes  # where addresses may point into a buffer

    @property
    def _row_shape(self) -> tuple[int, ...]:
        """The shape of all rows: that of the buffer without its last axis, or of its numbers."""
        return self.shape[:-1] if len(self.shape) > 1 else self.shape

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[len(self._row_shape) :]) * self.dtype.itemsize

    def _at(self, at: Place) -> NDArray[np.int64]:
        """Return the numbers of the rows at a place."""
        rows = np.arange(math.prod(self._row_shape)).reshape(self._row_shape) if self.rows is None else self.rows
        return np.asarray(rows[at])

    def _rows(self, at: Place) -> Rows:
        return Rows(self.value, self.row_bytes, self._at(at).ravel())

    def read(self, at: Place = ...) -> NDArray[Any]:
        if at is ... and self.rows is None:
            return np.asarray(self.value.numpy()).reshape(self.shape)
        numbers = self._at(at)
        words = self.memory.graphs.read(Rows(self.value, self.row_bytes, numbers.ravel()))
        return words.view(self.dtype).reshape(*numbers.shape, *self.shape[len(self._row_shape) :])

    def write(self, values: ArrayLike, at: Place = ...) -> None:
        numbers = self._at(at)
        shape = (*numbers.shape, *self.shape[len(self._row_shape) :])
        array = np.ascontiguousarray(np.broadcast_to(np.asarray(values, self.dtype), shape))
        if at is ... and self.rows is None:
            self.value.update_inplace(array)
        elif array.size:
            self.memory.graphs.write(self._rows(at), array.reshape(numbers.size, -1).view(np.int32))

    def view(self, at: Place) -> ProviderBuffer:
        rows = self._at(at)
        shape = (*rows.shape, *self.shape[len(self._row_shape) :])
        is_whole = self.rows is None and rows.size == math.prod(self._row_shape)
        return ProviderBuffer(self.memory, self.value, shape, self.dtype, None if is_whole else rows)

    def flat(self) -> ProviderBuffer:
        assert self.rows is None, "only a whole buffer is seen as one row of numbers"
        return ProviderBuffer(self.memory, self.value, (math.prod(self.shape),), self.dtype)

    def move(self, source: Place, target: Place) -> None:
        self.memory.graphs.copy(self._rows(source), self._rows(target))

    def copy_from(self, other: ProviderBuffer, at: Place) -> None:
        self.memory.graphs.copy(other._rows(at), self._rows(at))

    def take(self, other: ProviderBuffer) -> None:
        """Take over all that a buffer of the same shape holds."""
        self.memory.graphs.copy(other._rows(...), self._rows(...))

    @property
    def is_in_one_piece(self) -> bool:
        """Whether the rows stand one behind the other."""
        return self.rows is None or bool((np.diff(self.rows.ravel()) == 1).all())
