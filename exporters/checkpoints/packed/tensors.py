"""Quantized checkpoints whose integers are carried over: GPTQ and AWQ, under the names of plain weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.packed.awq import AwqFormat
from skipstone.exporters.checkpoints.packed.gptq import GptqFormat
from skipstone.exporters.checkpoints.packed.groups import ADVICE, PIECES, GroupedMatrix, PackedSizes
from skipstone.exporters.checkpoints.tensors import Coding, StoredTensors, check_shape
from skipstone.quant import QuantizedMatrix

__all__ = ["PackedTensors", "unpacked"]

_SUFFIX: Final = ".weight"


class PackedFormat(Protocol):
    """How one method lays out its pieces; `stem` is the name of a matrix without ".weight"."""

    @property
    def kind(self) -> str: ...

    def sizes(self, tensors: StoredTensors, stem: str) -> PackedSizes: ...

    def read(self, tensors: StoredTensors, stem: str) -> GroupedMatrix: ...

    def remarks(self, tensors: StoredTensors, stem: str) -> tuple[str, ...]: ...


def unpacked(config: Mapping[str, Any], tensors: StoredTensors) -> PackedTensors:
    """The tensors of a checkpoint whose config.json has a `quantization_config`, each matrix under one name.

    Checks the shapes of all pieces, reads none. Raises: UnsupportedModel for another method than GPTQ and AWQ, or one
    of their formats that we do not read, by name; CheckpointError when pieces are missing or do not fit.
    """
    settings = config["quantization_config"]
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"config.json: quantization_config must be an object, found {settings!r}")
    match settings.get("quant_method"):
        case "gptq":
            return PackedTensors(tensors, GptqFormat.of(settings))
        case "awq":
            return PackedTensors(tensors, AwqFormat.of(settings))
        case method:
            raise UnsupportedModel(f"quantization_config: {method!r} is not supported, only gptq and awq: {ADVICE}")


class PackedTensors:
    """A TensorSource: packed matrices [N, K] as `<stem>.weight`, and every plain tensor as it is."""

    def __init__(self, tensors: StoredTensors, layout: PackedFormat) -> None:
        self._tensors, self._layout = tensors, layout
        stems = {name.removesuffix(".qweight") for name in tensors.names() if name.endswith(".qweight")}
        self._sizes = {f"{stem}{_SUFFIX}": layout.sizes(tensors, stem) for stem in sorted(stems)}
        pieces = {f"{stem}.{piece}" for stem in stems for piece in (*PIECES, "g_idx")}
        self._names = (tensors.names() - pieces) | self._sizes.keys()
        self.remarks = layout.remarks(tensors, min(stems, key=self._num_weights)) if stems else ()

    def _num_weights(self, stem: str) -> tuple[int, str]:
        sizes = self._sizes[f"{stem}{_SUFFIX}"]
        return sizes.rows * sizes.columns, stem

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return self._tensors.num_bytes

    def names(self) -> frozenset[str]:
        """The names of all tensors, a packed matrix as one."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        if name in self._sizes:
            return self._sizes[name].rows, self._sizes[name].columns
        return self._tensors.shape(name)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array; of a packed matrix, the numbers that its integers stand for.

        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """
        if name in self._sizes:
            return np.ascontiguousarray(self._read_packed(name, shape).dequantize())
        return self._tensors.read(name, shape)

    @property
    def num_rounded(self) -> int:
        """None: all packed matrices are carried over."""
        return 0

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is a packed matrix."""
        return name in self._sizes

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of a packed matrix [N, K], with an `order` where the columns of its groups lie scattered.

        Cost: a few bytes per weight, for a moment. Raises: as `read` does.
        """
        if name in self._sizes:
            return self._read_packed(name, shape)
        return self._tensors.read_quantized(name, shape)

    def coding(self, name: str) -> Coding:
        """Every integer, scale and zero point is taken as it is."""
        return Coding(kind=self._layout.kind)

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """All rows. Raises: as `read` does."""
        rows, columns = self.shape(name)
        matrix = self.read_quantized(name, (rows, columns))
        return matrix, matrix.dequantize()

    def _read_packed(self, name: str, shape: tuple[int, ...]) -> QuantizedMatrix:
        check_shape(name, self.shape(name), shape)
        return self._layout.read(self._tensors, name.removesuffix(_SUFFIX)).in_blocks(name)
