"""From checkpoint tensors to initializers: read one, put it into the shape that the graph wants, quantize it, write it.

Nothing stays in memory: a tensor goes to the bundle's weight file and the graph keeps a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.architecture import Architecture
from skipstone.exporters.checkpoint import TensorSource

ALIGNMENT = 64


class WeightFile:
    """The one external data file of a bundle; equal names are stored once, so graphs can share a tensor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._tensors: dict[str, ir.ExternalTensor] = {}

    def add(self, name: str, make: Callable[[], NDArray[np.generic]]) -> ir.ExternalTensor:
        """Return the stored tensor `name`, calling `make` and writing its result the first time it is asked for."""
        if name not in self._tensors:
            self._tensors[name] = self._write(name, np.ascontiguousarray(make()))
        return self._tensors[name]

    def flat_rows(self, name: str) -> ir.ExternalTensor:
        """Return the bytes of a stored tensor [N, ...] as [N, rest]; nothing is written."""
        stored = self._tensors[name]
        num_rows = stored.shape.numpy()[0]
        shape = (num_rows, stored.nbytes // num_rows)
        return self._reference(f"{name}.as_2d", stored.dtype, shape, stored.offset or 0, stored.nbytes)

    def _write(self, name: str, array: NDArray[np.generic]) -> ir.ExternalTensor:
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        self._file.write(array.data.cast("B"))
        return self._reference(name, ir.DataType.from_numpy(array.dtype), array.shape, offset, array.nbytes)

    def _reference(
        self, name: str, dtype: ir.DataType, shape: Sequence[int], offset: int, num_bytes: int
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self._path.name, offset, num_bytes, dtype, shape=ir.Shape(shape), name=name, base_dir=self._path.parent
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class CheckpointWeights:
    """The checkpoint's tensors under our names: fused, with each head padded to a size that the kernel takes."""

    def __init__(
        self, architecture: Architecture, tensors: TensorSource, on_read: Callable[[int], None] = lambda num_bytes: None
    ) -> None:
        self._architecture, self._tensors, self._on_read = architecture, tensors, on_read
        self._shapes = architecture.tensor_shapes()

    def read(self, name: str, layer: int = 0) -> NDArray[np.float32]:
        """Return one tensor as the checkpoint has it, float32."""
        theirs = self._architecture.names[name].format(layer=layer)
        array = self._tensors.read(theirs, self._shapes[theirs])
        self._on_read(array.size)
        return array

    def qkv(self, layer: int) -> NDArray[np.float32]:
        """Return the projections of queries, keys and values in one, [(H + 2K) * D, E]."""
        return np.concatenate([self._pad_heads(self.read(name, layer)) for name in ("q", "k", "v")])

    def qkv_bias(self, layer: int) -> NDArray[np.float32]:
        return np.concatenate([self._pad_heads(self.read(name, layer)) for name in ("q_bias", "k_bias", "v_bias")])

    def output(self, layer: int) -> NDArray[np.float32]:
        """Return the projection after attention, [E, H * D]."""
        return np.ascontiguousarray(self._pad_heads(self.read("o", layer).T).T)

    def gate_up(self, layer: int) -> NDArray[np.float32]:
        """Return both inner projections of the FFN in one, [2 * I, E]."""
        return np.concatenate([self.read("gate", layer), self.read("up", layer)])

    def gate_up_bias(self, layer: int) -> NDArray[np.float32]:
        return np.concatenate([self.read("gate_bias", layer), self.read("up_bias", layer)])

    def _pad_heads(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return pad_heads(rows, self._architecture.dimensions.head_size)


def kernel_head_size(head_size: int) -> int:
    """Return the next head size that GroupQueryAttention takes with rotary inside: a multiple of 16."""
    return -(-head_size // 16) * 16


def pad_heads(rows: NDArray[np.float32], head_size: int) -> NDArray[np.float32]:
    """Append zero rows to both halves of each head of [heads * head_size, ...], up to the kernel's head size.

    Zeros add nothing to any dot product, and rotary still finds the partner of each channel in the other half.
    """
    missing = kernel_head_size(head_size) - head_size
    if not missing:
        return rows
    halves = rows.reshape(-1, head_size // 2, *rows.shape[1:])
    widths = [(0, 0), (0, missing // 2)] + [(0, 0)] * (halves.ndim - 2)
    return np.pad(halves, widths).reshape(-1, *rows.shape[1:])
