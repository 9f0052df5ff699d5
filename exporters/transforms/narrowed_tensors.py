"""The tensors of a model whose FFNs have fewer channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.checkpoints import TensorSource, check_shape
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.transform import ChangedTensors
from skipstone.quant import QuantizedMatrix, take_rows

__all__ = ["Channels", "NarrowedTensors", "kept_channels"]

Channels: TypeAlias = NDArray[np.int64]


class NarrowedTensors(ChangedTensors):
    """The tensors of a model of which some are cut, along one axis each."""

    def __init__(
        self, source: TensorSource, shapes: Mapping[str, tuple[int, ...]], kept: Mapping[str, tuple[int, Channels]]
    ) -> None:
        super().__init__(source)
        self._shapes, self._kept = shapes, kept

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor, after the cut. Raises CheckpointError when there is no such tensor."""
        return self._shapes[name] if name in self._kept else self._source.shape(name)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array; it is read whole. Raises: CheckpointError, as the source does."""
        if name not in self._kept:
            return self._source.read(name, shape)
        check_shape(name, self.shape(name), shape)
        axis, channels = self._kept[name]
        whole = self._source.read(name, self._source.shape(name))
        return np.ascontiguousarray(np.take(whole, channels, axis=axis))

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is given as integers: those of a matrix whose columns are cut become numbers."""
        return self._kept.get(name, (0,))[0] == 0 and self._source.is_quantized(name)

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K]; only its rows may be cut. Raises: as `read` does."""
        if name not in self._kept:
            return self._source.read_quantized(name, shape)
        check_shape(name, self.shape(name), shape)
        num_rows, num_columns = self._source.shape(name)
        matrix = take_rows(self._source.read_quantized(name, (num_rows, num_columns)), self._kept[name][1])
        assert isinstance(matrix, QuantizedMatrix), "rows of integers are integers"
        return matrix


def kept_channels(architecture: Architecture, channels: Sequence[Channels]) -> dict[str, tuple[int, Channels]]:
    """Return the axis that is cut, and the indices that stay, of each tensor of the layers that change.

    `channels` are those that stay of the FFN of each layer, in their order.
    """
    kept: dict[str, tuple[int, Channels]] = {}
    for layer, (own, whole) in enumerate(zip(channels, architecture.ffn_widths, strict=True)):
        cuts = {"gate": (0, own), "up": (0, own), "gate_up": (0, np.concatenate([own, whole + own])), "down": (1, own)}
        for name, (axis, indices) in cuts.items():
            if architecture.has(name) and not np.array_equal(own, np.arange(whole)):
                stored_axis = 1 - axis if architecture.is_transposed(name) else axis
                kept[architecture.names[name].format(layer=layer)] = stored_axis, indices
                if axis == 0 and name in architecture.biases:
                    kept[architecture.names[f"{name}_bias"].format(layer=layer)] = 0, indices
    return kept
