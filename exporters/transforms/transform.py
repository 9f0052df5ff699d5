"""What a transformation of the model is: a description and its tensors in, the same of another model out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints import Coding, TensorSource
from skipstone.exporters.families import Architecture
from skipstone.quant import QuantizedMatrix

__all__ = ["ChangedTensors", "Transform", "Transformed", "apply"]


class Transform(ABC):
    """A change of the model, made before its graph is written. A subclass needs `change`, and says what must hold.

    An architecture and its tensors belong together: `tensors` has all that `architecture.tensor_shapes()` names, in
    these shapes. `apply` checks that after each transform, and that the tokens are still the same. One that
    `keeps_matrices` changes none that is still there, so that integers of the checkpoint may stay.
    """

    keeps_matrices: ClassVar[bool] = False

    def __str__(self) -> str:
        """What the transform is called in messages."""
        return f"the transform {type(self).__name__}"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise ConfigError, CheckpointError or UnsupportedModel for a model that cannot be changed; read no weight."""
        return

    @abstractmethod
    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the changed model, or both arguments themselves where there is nothing to change.

        Weights are changed when they are read, one at a time; see `ChangedTensors`.
        """

    def ensures(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel where the changed model is not what was promised; may read a few weights."""
        return

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Return config.json of the changed model, for `export --check`, from that of the model before.

        `architecture` is the changed one. By default the settings stay.
        Raises: UnsupportedModel where transformers has no such model.
        """
        return config


class Transformed(NamedTuple):
    """A model after its transforms; `transforms` are those that changed something."""

    architecture: Architecture
    tensors: TensorSource
    transforms: tuple[Transform, ...]


def apply(transforms: Iterable[Transform], architecture: Architecture, tensors: TensorSource) -> Transformed:
    """Return the model after all transforms, one after the other, each with what must hold before and after it.

    Raises: what `requires` and `ensures` of a transform raise; UnsupportedModel for one that breaks the contract.
    """
    done = []
    for transform in transforms:
        transform.requires(architecture, tensors)
        changed = transform.change(architecture, tensors)
        if changed[0] is architecture and changed[1] is tensors:
            continue
        _check(transform, architecture, *changed)
        transform.ensures(*changed)
        architecture, tensors = changed
        done.append(transform)
    return Transformed(architecture, tensors, tuple(done))


def _check(transform: Transform, before: Architecture, architecture: Architecture, tensors: TensorSource) -> None:
    """Raise UnsupportedModel unless architecture and tensors belong together and keep the vocabulary."""
    present = tensors.names()
    sizes = before.dimensions.vocab_size, architecture.dimensions.vocab_size
    if sizes[0] != sizes[1]:
        raise UnsupportedModel(
            f"{transform} makes {sizes[1]} tokens of {sizes[0]}: it must leave the vocabulary as it is"
        )
    for name, shape in architecture.tensor_shapes().items():
        if name not in present:
            raise UnsupportedModel(f"{transform} gives no tensor {name!r}, which its architecture names: add it")
        if tensors.shape(name) != shape:
            raise UnsupportedModel(
                f"{transform} gives {name!r} the shape {list(tensors.shape(name))}, and its architecture asks for "
                f"{list(shape)}: change both alike"
            )


class ChangedTensors:
    """A TensorSource that gives the tensors of another as they are; a subclass changes some as they are read."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return self._source.num_bytes

    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        return self._source.shape(name)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array. Raises: CheckpointError, as the source does."""
        return self._source.read(name, shape)

    @property
    def num_rounded(self) -> int:
        """As in the source."""
        return self._source.num_rounded

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is stored as integers, and given so by `read_quantized`."""
        return self._source.is_quantized(name)

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K] for which `is_quantized` holds. Raises: as `read` does."""
        return self._source.read_quantized(name, shape)

    def coding(self, name: str) -> Coding:
        """How the integers of a tensor for which `is_quantized` holds are carried over."""
        return self._source.coding(name)

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Some rows of such a tensor as integers, and their numbers, in the source. Raises: as `read` does."""
        return self._source.sample(name)
