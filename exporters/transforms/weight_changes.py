"""Tensors of a model that are changed when they are read, each by what was noted for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints import TensorSource, check_shape
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.transform import ChangedTensors

__all__ = ["Change", "WeightChanges", "read_tensor"]

Floats: TypeAlias = NDArray[np.float32]
_NEAR_THE_END: Final = 1e36
Change: TypeAlias = Callable[[Floats], NDArray[np.floating]]


class WeightChanges(ChangedTensors):
    """The tensors of another source with the changes that were noted, in the order in which they were.

    A change gets a matrix with its outputs first, [N, K], however the checkpoint holds it. Integers that are changed
    become numbers.
    """

    def __init__(self, source: TensorSource, architecture: Architecture) -> None:
        super().__init__(source)
        self._architecture = architecture
        self._changes: dict[str, list[Change]] = {}
        self._transposed: set[str] = set()
        self._added: dict[str, Callable[[], Floats]] = {}
        self._added_shapes: dict[str, tuple[int, ...]] = {}

    def note(self, name: str, layer: int, change: Change) -> None:
        """Note a change of a tensor that we call `name`; of each expert, where each has its own."""
        for theirs in self._architecture.stored_names(name, layer):
            self._changes.setdefault(theirs, []).append(change)
            if self._architecture.is_transposed(name) and len(self.shape(theirs)) == 2:
                self._transposed.add(theirs)

    def add(self, theirs: str, shape: tuple[int, ...], make: Callable[[], Floats]) -> None:
        """Add a tensor that the checkpoint does not have."""
        self._added[theirs], self._added_shapes[theirs] = make, shape

    @property
    def num_rounded(self) -> int:
        """As in the source, and the integers that are changed."""
        return self._source.num_rounded + sum(map(self._source.is_quantized, self._changes))

    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return self._source.names() | frozenset(self._added)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        return self._added_shapes[name] if name in self._added else self._source.shape(name)

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is stored as integers and not changed."""
        return name not in self._changes and name not in self._added and self._source.is_quantized(name)

    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        """One tensor as a new C-contiguous array. Raises: CheckpointError, as the source does, and for an overflow."""
        check_shape(name, self.shape(name), shape)
        if name in self._added:
            return self._added[name]()
        array = self._source.read(name, shape)
        for change in self._changes.get(name, ()):
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                changed = change(array.T).T if name in self._transposed else change(array)
            array = np.ascontiguousarray(_within_float32(changed, array), np.float32)
        if name in self._changes and not np.isfinite(array).all():
            raise CheckpointError(
                f"tensor {name!r} holds NaN or infinite values once it is changed: the checkpoint is damaged"
            )
        return array


def _within_float32(changed: NDArray[np.floating], before: Floats) -> NDArray[np.floating]:
    """Return what a change made of a tensor; numbers that were at the end of float32 stay there, none is infinite."""
    if changed.size != before.size or np.abs(before).max() < _NEAR_THE_END:
        return changed
    limit = np.finfo(np.float32).max
    clipped: NDArray[np.floating] = np.clip(changed, -limit, limit)
    return clipped


def read_tensor(tensors: TensorSource, architecture: Architecture, name: str, layer: int = 0) -> Floats:
    """Return a tensor that we call `name`, as it is stored."""
    (theirs,) = architecture.stored_names(name, layer)
    return tensors.read(theirs, tensors.shape(theirs))
