"""Integers that a checkpoint brings: which go into the bundle, and how near they are to what the checkpoint says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.checkpoints import Coding, TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms import ChangedTensors
from skipstone.quant import QuantizedMatrix, as_columns

__all__ = ["KeptKind", "all_numbers", "kept_kinds", "with_numbers"]

_NUM_SAMPLES: Final = 16  # matrices of a kind


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKind:
    """All matrices of one kind; `error` is the root mean square of what re-coding changed, by that of the weights."""

    kind: str
    num_matrices: int
    error: float

    def __str__(self) -> str:
        near = f"within {100 * self.error:.2g} %" if self.error else "exact"
        return f"{self.num_matrices} {self.kind} {near}"

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest's recipe holds of it."""
        return {"kind": self.kind, "matrices": self.num_matrices, "error": self.error}


def kept_kinds(tensors: TensorSource, names: Iterable[str]) -> tuple[KeptKind, ...]:
    """Return the kinds of those tensors that are integers.

    Cost: reads a few rows of some of a kind whose integers are re-coded. Raises: CheckpointError for damaged rows.
    """
    by_kind: dict[Coding, list[str]] = {}
    for name in names:
        if tensors.is_quantized(name):
            by_kind.setdefault(tensors.coding(name), []).append(name)
    return tuple(
        KeptKind(kind=coding.kind, num_matrices=len(by_kind[coding]), error=_error(tensors, coding, by_kind[coding]))
        for coding in sorted(by_kind, key=lambda coding: coding.kind)
    )


def _error(tensors: TensorSource, coding: Coding, names: Sequence[str]) -> float:
    if coding.is_exact:
        return 0.0
    some = names[:: -(-len(names) // _NUM_SAMPLES)]
    return float(np.mean([_squared_error(tensors, name) for name in some]) ** 0.5)


def _squared_error(tensors: TensorSource, name: str) -> float:
    matrix, numbers = tensors.sample(name)
    power = np.square(numbers).mean(dtype=np.float64)
    return float(np.square(_as_stored(matrix) - numbers).mean(dtype=np.float64) / power) if power else 0.0


def _as_stored(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """Return what the graph computes with: there offsets are more columns, and rounded."""
    if matrix.offsets is None:
        return matrix.dequantize()
    columns, size = matrix.shape[1], matrix.block_size
    stored = as_columns(matrix).dequantize()
    return stored[:, :columns] + np.repeat(stored[:, columns:], size, axis=1)


def with_numbers(architecture: Architecture, tensors: TensorSource, *, keep: bool) -> TensorSource:
    """Return the tensors with numbers where integers are not kept.

    Those that lie as ours do always are. Others are not unless `keep`, nor where a LayerNorm of each head makes other
    weights of them.
    """
    names = {name for name in architecture.tensor_shapes() if tensors.is_quantized(name)}
    others = {name for name in names if not tensors.coding(name).is_native}
    if keep:
        others &= _centred(architecture)
    return _AsNumbers(tensors, others) if others else tensors


def all_numbers(architecture: Architecture, tensors: TensorSource) -> TensorSource:
    """Return the tensors as numbers, whatever integers the checkpoint holds."""
    return _AsNumbers(tensors, [name for name in architecture.tensor_shapes() if tensors.is_quantized(name)])


def _centred(architecture: Architecture) -> set[str]:
    if architecture.head_norm != "layer":
        return set()
    layers = range(architecture.dimensions.num_layers)
    return {architecture.names[name].format(layer=layer) for layer in layers for name in ("q", "k")}


class _AsNumbers(ChangedTensors):
    """The tensors of a source, some of which are numbers where it has integers."""

    def __init__(self, source: TensorSource, names: Collection[str]) -> None:
        super().__init__(source)
        self._names = frozenset(names)

    @property
    def num_rounded(self) -> int:
        """Those of the source, and ours."""
        return self._source.num_rounded + len(self._names)

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is given as integers by `read_quantized`."""
        return name not in self._names and self._source.is_quantized(name)
