"""Graphs bound to a provider's memory: what lives there is bound once, what the host writes goes there before a run."""

from __future__ import annotations

from typing import TypeAlias

import onnxruntime as ort

from skipstone.devices.cancellation import run_cancellable
from skipstone.devices.cpu_memory import CpuBuffer
from skipstone.devices.provider_memory import ProviderBuffer, ProviderMemory

__all__ = ["ProviderBinding"]

AnyBuffer: TypeAlias = "CpuBuffer | ProviderBuffer"


class ProviderBinding:
    """A graph tied to buffers of a provider and of the host; see `Binding`.

    onnxruntime copies a host's input to the device when it is bound, so what the host may have changed is bound anew
    before each run. An output that the host reads is copied there at the end of a run.
    """

    def __init__(self, memory: ProviderMemory, session: ort.InferenceSession) -> None:
        self._memory, self._session, self._binding = memory, session, session.io_binding()
        self._host_inputs = dict[str, tuple[CpuBuffer, tuple[int, ...] | None]]()
        self._inputs, self._outputs = dict[str, ProviderBuffer](), dict[str, ProviderBuffer]()
        self._copies = dict[int, ProviderBuffer]()  # of views, by the view's identity

    def read_from(self, name: str, buffer: AnyBuffer, shape: tuple[int, ...] | None = None) -> None:
        self._host_inputs.pop(name, None)
        self._inputs.pop(name, None)
        if isinstance(buffer, CpuBuffer):
            self._host_inputs[name] = buffer, shape
            return
        self._inputs[name] = buffer
        bound, memory = self._stand_in(buffer), self._memory
        if shape is None and bound.rows is None:
            self._binding.bind_ortvalue_input(name, bound.value)
        else:
            shape = bound.shape if shape is None else shape
            self._binding.bind_input(name, memory.kind, memory.index, bound.dtype.type, shape, bound.address)

    def write_to(self, name: str, buffer: AnyBuffer) -> None:
        self._outputs.pop(name, None)
        if isinstance(buffer, CpuBuffer):
            self._binding.bind_ortvalue_output(name, buffer.value)
            return
        self._outputs[name] = buffer
        bound, memory = self._stand_in(buffer), self._memory
        if bound.rows is None:
            self._binding.bind_ortvalue_output(name, bound.value)
        else:
            place = bound.dtype.type, bound.shape, bound.address
            self._binding.bind_output(name, memory.kind, memory.index, *place)

    def run(self) -> None:
        for name, (buffer, shape) in self._host_inputs.items():
            if shape is None:
                self._binding.bind_ortvalue_input(name, buffer.value)
            else:
                self._binding.bind_input(name, "cpu", 0, buffer.dtype, shape, buffer.address)
        for view in {id(buffer): buffer for buffer in self._inputs.values()}.values():
            if (copy := self._copies.get(id(view))) is not None:
                copy.take(view)
        run_cancellable(lambda options: self._session.run_with_iobinding(self._binding, options))
        for view in {id(buffer): buffer for buffer in self._outputs.values()}.values():
            if (copy := self._copies.get(id(view))) is not None:
                view.take(copy)

    def _stand_in(self, buffer: ProviderBuffer) -> ProviderBuffer:
        """Return what a graph is bound to in place of a buffer: a copy for a view that has no address of its own."""
        if buffer.rows is None or (self._memory.takes_offsets and buffer.is_in_one_piece):
            return buffer
        if id(buffer) not in self._copies:
            self._copies[id(buffer)] = self._memory.allocate(buffer.shape, buffer.dtype)
        return self._copies[id(buffer)]
