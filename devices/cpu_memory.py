"""The processor's memory: buffers that NumPy and onnxruntime see alike."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from skipstone.devices.buffer import Place
from skipstone.devices.cancellation import run_cancellable
from skipstone.errors import DeviceError, SkipstoneError

__all__ = ["NO_MEMORY", "CpuBinding", "CpuBuffer"]

NO_MEMORY: Final = "bad_alloc"
"""A word of the errors of onnxruntime where memory does not suffice."""


class CpuBuffer:
    """A buffer in the processor's memory; see `Buffer`."""

    def __init__(self, value: ort.OrtValue, array: NDArray[Any] | None = None) -> None:
        """`array` owns the memory of `value`: what was read outlives the buffer. Without one, `value` owns it."""
        self.value = value
        self._array: NDArray[Any] = value.numpy() if array is None else array
        self.address = self._array.ctypes.data
        self.shape, self.dtype = self._array.shape, self._array.dtype

    @classmethod
    def over(cls, array: NDArray[Any]) -> CpuBuffer:
        """Return a buffer over the memory of an array, which lies in one piece."""
        assert array.flags.c_contiguous, "onnxruntime would take a copy"
        return cls(ort.OrtValue.ortvalue_from_numpy(array), array)

    def read(self, at: Place = ...) -> NDArray[Any]:
        return self._array if at is ... else self._array[at]

    def write(self, values: ArrayLike, at: Place = ...) -> None:
        self._array[at] = values

    def view(self, at: Place) -> CpuBuffer:
        return CpuBuffer.over(self._array[at])

    def flat(self) -> CpuBuffer:
        return CpuBuffer.over(self._array.reshape(-1))

    def move(self, source: Place, target: Place) -> None:
        self._array[target] = self._array[source]

    def copy_from(self, other: CpuBuffer, at: Place) -> None:
        np.copyto(self._array[at], other._array[at])


class CpuBinding:
    """A graph tied to buffers of the processor; see `Binding`."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session, self._binding = session, session.io_binding()

    def read_from(self, name: str, buffer: CpuBuffer, shape: tuple[int, ...] | None = None) -> None:
        if shape is None:
            self._binding.bind_ortvalue_input(name, buffer.value)
        else:
            self._binding.bind_input(name, "cpu", 0, buffer.dtype, shape, buffer.address)

    def write_to(self, name: str, buffer: CpuBuffer) -> None:
        self._binding.bind_ortvalue_output(name, buffer.value)

    def run(self) -> None:
        """Run the graph once. Raises: DeviceError where the memory does not suffice; Cancelled."""
        try:
            run_cancellable(lambda options: self._session.run_with_iobinding(self._binding, options))
        except Exception as error:  # onnxruntime's errors have no base of their own
            if NO_MEMORY in str(error):
                raise DeviceError(
                    "not enough memory for a model call; free some, give a smaller --context, or take a smaller bundle"
                ) from error
            if isinstance(error, SkipstoneError):
                raise
            reason = " ".join(str(error).split())
            raise DeviceError(f"a graph of the bundle cannot be run; copy or export it again: {reason}") from error
