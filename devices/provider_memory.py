"""Memory of an execution provider's device: buffers that stay there, which small graphs read, write and move.

The host sees none of it. A buffer is one piece of memory, addressed in rows: its last axis, or single numbers where it
has one axis. A view has rows of a buffer; a graph that is bound to a view works on a copy of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, DTypeLike, NDArray

from skipstone.devices.buffer import Place
from skipstone.devices.row_graphs import RowGraphs, Rows
from skipstone.errors import DeviceError

__all__ = ["ProviderBuffer", "ProviderMemory", "reason_told"]

# Smaller buffers are not tried out, and by what number larger ones are.
LEAST_DOUBTED: Final = 1 << 20
KEPT: Final = 85
MOST_TOLD: Final = 300


class ProviderMemory:
    """What allocates on one device; `kind` and `index` are how onnxruntime calls the device, such as `cuda` and 1."""

    def __init__(
        self, kind: str, index: int, graphs: RowGraphs, *, takes_offsets: bool, fails_silently: bool = False
    ) -> None:
        """With `takes_offsets` an address may point into a buffer, so that a view in one piece needs no copy.

        A provider that `fails_silently` gives a buffer that keeps nothing where there is no memory.
        """
        self.kind, self.index, self.graphs = kind, index, graphs
        self.takes_offsets, self._fails_silently = takes_offsets, fails_silently
        graphs.start()  # a provider that does not start ends the whole process when it is asked for memory

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> ProviderBuffer:
        """Return a buffer with undefined contents. Raises: DeviceError when the memory does not suffice."""
        numpy_type = np.dtype(dtype)
        num_bytes = math.prod(shape) * numpy_type.itemsize
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), numpy_type.type, self.kind, self.index)
            buffer = ProviderBuffer(self, value, tuple(shape), numpy_type)
            if self._fails_silently and num_bytes >= LEAST_DOUBTED:
                _require_kept(buffer)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise DeviceError(
                f"{self.kind}:{self.index} has no memory for a buffer of {num_bytes / 1e6:,.1f} MB: lower --context, "
                f"take a smaller bundle, or --cache int8 ({reason_told(error)})"
            ) from error
        return buffer


def _numbers(shape: tuple[int, ...], at: Place) -> NDArray[np.int64]:
    """Return the numbers of the rows at a place among rows [shape], as numpy would take them out of all numbers.

    At most one axis has a list. Cost: the rows of the place, however many there are.
    """
    places: tuple[Any, ...] = () if at is ... else at if isinstance(at, tuple) else (at,)
    assert len(places) <= len(shape), "a place is made of whole rows"
    numbers: NDArray[np.int64] = np.zeros((), np.int64)
    for axis, size in enumerate(shape):
        of_axis = np.arange(size, dtype=np.int64)[places[axis] if axis < len(places) else slice(None)]
        numbers = np.add.outer(numbers, of_axis * math.prod(shape[axis + 1 :]))
    return numbers


def reason_told(error: Exception) -> str:
    """Return what an error of onnxruntime says, without the places in its source that lead up to it."""
    return " ".join(str(error).split()).rsplit(" was false. ", 1)[-1][-MOST_TOLD:]


def _require_kept(buffer: ProviderBuffer) -> None:
    """Raise MemoryError where a buffer does not keep what is written to its last row."""
    last = tuple(slice(size - 1, size) for size in buffer.shape[:-1] or buffer.shape)
    buffer.write(KEPT, last)
    if not (buffer.read(last) == KEPT).all():
        raise MemoryError("it keeps nothing that is written there")


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
        return _numbers(self._row_shape, at) if self.rows is None else np.asarray(self.rows[at])

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
