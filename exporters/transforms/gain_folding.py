"""Scales of channels found without a text: a norm's gains, and the sizes of rows, tell how large an input will be.

A channel that is large in front of a matrix costs most where its weights are rounded. About half of what it is larger
goes into the weights, where blocks round it as part of what they hold. Measured in docs/quantization.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.fold_points import FoldPoint, fold_points
from skipstone.exporters.transforms.folding import Folding
from skipstone.exporters.transforms.transform import Transform
from skipstone.exporters.transforms.weight_changes import read_tensor

__all__ = ["GainFolding"]

Floats: TypeAlias = NDArray[np.float32]
_MOST: Final = 1e3  # times the median: sizes beyond are cut off, so that one number cannot spoil the others
_NORMS: Final = {"v": "attention_norm", "qkv": "attention_norm", "up": "ffn_norm", "gate_up": "ffn_norm"}


@dataclass(frozen=True, slots=True)
class GainFolding(Transform):
    """Moves the power `alpha` of the expected size of each input into the matrices that read it.

    The model stays the same. Integers of the checkpoint stay as they are: where one would change nothing is folded.
    """

    alpha: float

    def __str__(self) -> str:
        return "folding of gains"

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        scales = {}
        for name, point in fold_points(architecture).items():
            if not _holds_integers(point, architecture, tensors):
                scales[name] = _scales(_sizes(point, architecture, tensors), self.alpha)
        return Folding(scales).change(architecture, tensors)


def _holds_integers(point: FoldPoint, architecture: Architecture, tensors: TensorSource) -> bool:
    names = (point.producer, *point.readers)
    return any(
        tensors.is_quantized(theirs) for name in names for theirs in architecture.stored_names(name, point.layer)
    )


def _sizes(point: FoldPoint, architecture: Architecture, tensors: TensorSource) -> Floats:
    """Return how large an input of each scale will be, up to a factor for all."""
    produced = _matrix(architecture, tensors, point.producer, point.layer)
    if point.producer.endswith("_norm"):
        gains: Floats = np.abs(produced + np.float32(architecture.norm_offset))
        return gains
    sizes = _row_sizes(point.producer, produced, architecture, tensors, point.layer)
    if point.readers != ("down",):
        return sizes[point.rows]
    if point.producer == "gate_up":
        return sizes[point.rows] * sizes[: len(point.rows)]
    gate = _matrix(architecture, tensors, "gate", point.layer)
    return sizes[point.rows] * _row_sizes("up", gate, architecture, tensors, point.layer)


def _row_sizes(name: str, matrix: Floats, architecture: Architecture, tensors: TensorSource, layer: int) -> Floats:
    """Return the sizes of rows [N] for inputs as large as their gains."""
    norm = _NORMS[name]
    gains: Floats | float = 1.0
    if architecture.has(norm):
        gains = _matrix(architecture, tensors, norm, layer) + np.float32(architecture.norm_offset)
    with np.errstate(over="ignore", invalid="ignore"):
        sizes: Floats = np.linalg.norm(matrix * gains, axis=1).astype(np.float32)
    return sizes


def _matrix(architecture: Architecture, tensors: TensorSource, name: str, layer: int) -> Floats:
    """Return a tensor, a matrix with its outputs first."""
    array = read_tensor(tensors, architecture, name, layer)
    return array.T if architecture.is_transposed(name) and array.ndim == 2 else array


def _scales(sizes: Floats, alpha: float) -> Floats:
    """Return sizes^alpha about 1."""
    finite = sizes[np.isfinite(sizes)]
    middle = float(np.median(finite)) if finite.any() else 1.0
    middle = middle or float(finite.max())
    known = np.nan_to_num(sizes.astype(np.float64), nan=middle)
    scales = np.clip(known, middle / _MOST, middle * _MOST) ** alpha
    return np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)
