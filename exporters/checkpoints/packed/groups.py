"""The pieces that GPTQ and AWQ share: integers in 32-bit words, and groups of columns with a scale and a zero point.

A matrix [N, K] (N outputs, K inputs) is three tensors beside each other: `qweight`, the integers in words; `scales`
[G, N] of G groups of columns; `qzeros`, their zero points in words. A weight is (integer - zero point) * scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.tensors import StoredTensors
from skipstone.quant import QuantizedMatrix, pack

__all__ = [
    "ADVICE",
    "BLOCK_SIZES",
    "PIECES",
    "WORD_BITS",
    "GroupedMatrix",
    "PackedSizes",
    "consecutive_groups",
    "group_size_in",
    "piece_shapes",
    "read_words",
    "require_fit",
    "require_groups",
]

ADVICE: Final = "take the checkpoint as it was before quantization; export quantizes it"
PIECES: Final = ("qweight", "qzeros", "scales")
WORD_BITS: Final = 32
# Larger groups repeat their scale: at 128 that is a quarter of a bit per weight, and the kernels are at their best.
BLOCK_SIZES: Final = (128, 64, 32, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSizes:
    """What the shapes of the pieces tell about one matrix."""

    bits: int
    rows: int  # N
    columns: int  # K
    groups: int  # G


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupedMatrix:
    """One matrix, out of its words."""

    values: NDArray[np.uint8]  # [N, K]
    zero_points: NDArray[np.uint8]  # [N, G]
    scales: NDArray[np.float32]  # [N, G]
    groups: NDArray[np.int64]  # [K], the group of each column
    bits: int

    def in_blocks(self, name: str) -> QuantizedMatrix:
        """The same integers in blocks of one size, each inside one group; with an order where groups lie scattered.

        Raises: UnsupportedModel when no block size fits all groups.
        """
        values, groups, order = self.values, self.groups, None
        if (groups[1:] < groups[:-1]).any():
            order = np.argsort(groups, kind="stable")
            values, groups = values[:, order], groups[order]
        block_size = _block_size(name, groups)
        block_groups = groups[::block_size]
        zero_points = np.ascontiguousarray(self.zero_points[:, block_groups])
        filling = np.repeat(zero_points[:, -1:], -len(groups) % block_size, axis=1)  # reads as zeros
        blocks = np.concatenate([values, filling], axis=1).reshape(*zero_points.shape, block_size)
        symmetric = bool((zero_points == 1 << (self.bits - 1)).all())
        return QuantizedMatrix(
            data=pack(blocks, self.bits),
            scales=np.ascontiguousarray(self.scales[:, block_groups]),
            zero_points=None if symmetric else pack(zero_points, self.bits),
            bits=self.bits,
            block_size=block_size,
            shape=(values.shape[0], values.shape[1]),
            order=order,
        )


def _block_size(name: str, groups: NDArray[np.int64]) -> int:
    """The largest size at which every block lies in one group; `groups` [K] are sorted."""
    for size in BLOCK_SIZES:
        if np.array_equal(np.repeat(groups[::size], size)[: len(groups)], groups):
            return size
    widths = sorted(set(np.unique(groups, return_counts=True)[1].tolist()))
    raise UnsupportedModel(
        f"{name}: groups of {', '.join(map(str, widths))} columns are not supported, only multiples of "
        f"{BLOCK_SIZES[-1]}: {ADVICE}"
    )


def consecutive_groups(columns: int, group_size: int | None) -> NDArray[np.int64]:
    """The group [K] of each column when they follow each other; None is one group."""
    return np.arange(columns) // (group_size or columns)


def group_size_in(settings: Mapping[str, Any]) -> int | None:
    """What quantization_config says, None for its -1. Raises: CheckpointError when that is no size."""
    size = settings.get("group_size", 128)
    if type(size) is not int or (size < 1 and size != -1):
        raise CheckpointError(f"quantization_config: group_size must be -1 or a positive whole number, found {size!r}")
    return None if size == -1 else size


def piece_shapes(tensors: StoredTensors, stem: str) -> tuple[tuple[int, int], ...]:
    """The shapes of the three pieces of one matrix. Raises: CheckpointError when one is missing or is no matrix."""
    shapes = [tensors.shape(f"{stem}.{piece}") for piece in PIECES]
    require_fit(tensors, stem, fits=all(len(shape) == 2 and 0 not in shape for shape in shapes))
    return tuple((shape[0], shape[1]) for shape in shapes)


def require_fit(tensors: StoredTensors, stem: str, *, fits: bool) -> None:
    """Raise CheckpointError with the shapes of the pieces unless they fit."""
    if not fits:
        found = ", ".join(f"{piece} {list(tensors.shape(f'{stem}.{piece}'))}" for piece in PIECES)
        raise CheckpointError(f"{stem}: the shapes of its pieces do not fit: {found}: fetch the checkpoint again")


def require_groups(stem: str, sizes: PackedSizes, group_size: int | None) -> None:
    """Raise CheckpointError unless groups of this size make the number of groups that the pieces have."""
    group_size = group_size or sizes.columns
    wanted = -(-sizes.columns // group_size)
    if sizes.groups != wanted:
        raise CheckpointError(
            f"{stem}: {sizes.columns} columns in groups of {group_size} need {wanted} groups, found {sizes.groups}: "
            "config.json and the weights do not belong together"
        )


def read_words(tensors: StoredTensors, name: str) -> NDArray[np.uint32]:
    """The 32-bit words of one piece. Raises: CheckpointError when it is stored in another dtype."""
    words = tensors.read_integers(name, tensors.shape(name))
    if words.dtype.itemsize * 8 != WORD_BITS:
        raise CheckpointError(f"tensor {name!r} is stored as {words.dtype}, wanted int32 for a packed matrix")
    return words.view(np.uint32)
