"""Scales of channels, moved from the inputs of matrices into the matrices: the rounding changes, the model does not.

Source: SmoothQuant (Xiao et al., 2023), AWQ (Lin et al., 2024); `skipstone.quant` finds such scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.fold_points import FoldPoint, fold_points
from skipstone.exporters.transforms.transform import Transform
from skipstone.exporters.transforms.weight_changes import Change, WeightChanges

__all__ = ["Folding"]

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Folding(Transform):
    """Multiplies columns of matrices by `scales`, and divides by them the norm, or the rows, that make these inputs.

    `scales` are by the recipe's names of the matrices, such as `layers.3.down`; see `fold_points` for all places of a
    model and how many scales each has. Integers of the checkpoint become numbers.
    """

    scales: Mapping[str, Floats]

    def __str__(self) -> str:
        return f"folding of scales into {len(self.scales)} places"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel for a place that this model lacks, ConfigError for scales that are none."""
        points = fold_points(architecture)
        for name, scales in self.scales.items():
            if name not in points:
                raise UnsupportedModel(f"a {architecture.family} has no scales to fold at {name}: leave them out")
            wanted = (points[name].num_scales,)
            if scales.shape != wanted:
                raise ConfigError(f"{name} takes scales of shape {list(wanted)}, found {list(scales.shape)}")
            if not (np.isfinite(scales).all() and (scales > 0).all()):
                raise ConfigError(f"the scales of {name} must be positive numbers; calibrate again")

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the same architecture with other weights."""
        if not self.scales:
            return architecture, tensors
        folded, points = WeightChanges(tensors, architecture), fold_points(architecture)
        for name, scales in self.scales.items():
            _note(folded, architecture, points[name], scales.astype(np.float64))
        return architecture, folded


def _note(folded: WeightChanges, architecture: Architecture, point: FoldPoint, scales: NDArray[np.float64]) -> None:
    is_norm = point.producer.endswith("_norm")
    shift = architecture.norm_offset if is_norm else 0.0
    folded.note(point.producer, point.layer, _divided(point.rows, scales, shift))
    if point.producer in architecture.biases:
        folded.note(f"{point.producer}_bias", point.layer, _divided(point.rows, scales, 0.0))
    factors = scales[point.columns]
    for reader in point.readers:
        folded.note(reader, point.layer, lambda matrix: matrix * factors)


def _divided(rows: NDArray[np.int64], scales: NDArray[np.float64], shift: float) -> Change:
    """Return what divides rows, or numbers, by their scales; `shift` is added to them for that."""

    def divide(values: Floats) -> NDArray[np.float64]:
        divided = values.astype(np.float64)
        divided[rows] = ((divided[rows] + shift).T / scales).T - shift
        return divided

    return divide
