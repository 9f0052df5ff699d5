"""The weights of a checkpoint, one tensor at a time, as float32, with the checks that are the same for every format."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.quant import QuantizedMatrix

__all__ = ["FLOATS", "INTEGERS", "Coding", "StoredTensor", "StoredTensors", "TensorSource", "check_shape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How the integers of a checkpoint go into our blocks; `kind` is what its format calls them.

    `is_native`: in blocks of the same size and as many bits, so nothing is gained by numbers. `is_exact`: they stand
    for the same numbers.
    """

    kind: str
    is_native: bool = True
    is_exact: bool = True


class TensorSource(Protocol):
    """Named weights that are read one at a time."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""

    def names(self) -> frozenset[str]:
        """The names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array.

        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """

    @property
    def num_rounded(self) -> int:
        """How many tensors lie in blocks that cannot be carried over: they are read as numbers, and rounded again."""

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is stored as block-wise integers that can be carried over; `read` gives its numbers."""

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K] for which `is_quantized` holds. Raises: as `read` does."""

    def coding(self, name: str) -> Coding:
        """How the integers of a tensor for which `is_quantized` holds are carried over."""

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Some rows of such a tensor as `read_quantized` gives them, and their numbers. Raises: as `read` does."""


FLOATS: Final = ("F64", "F32", "F16", "BF16")
INTEGERS: Final[Mapping[str, str]] = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1", "U32": "<u4"}


class StoredTensor(Protocol):
    """Where one tensor lies, and how to fill an array with it."""

    @property
    def dtype(self) -> str:
        """F64, F32, F16 or BF16; I64, I32, I16, U8 or U32; any other name is a dtype that we do not read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int: ...

    def fill(self, out: NDArray[np.generic]) -> None:
        """Write the values into `out`, which is C-contiguous, of our shape, and float32 or of our integer dtype."""


class StoredTensors:
    """The tensors of a checkpoint, from one file or many, with every check that does not depend on the format."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = dict(tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(tensor.num_bytes for tensor in self._tensors.values())

    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._tensors)

    def renamed(self, names: Mapping[str, str]) -> StoredTensors:
        """The same tensors by new names, from old to new."""
        return StoredTensors({names[name]: tensor for name, tensor in self._tensors.items()})

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        return self._find(name).shape

    def dtype(self, name: str) -> str:
        """What one tensor is stored as, such as BF16. Raises CheckpointError when there is no such tensor."""
        return self._find(name).dtype

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array.

        Cost: the array itself, and a quarter of it for the search for NaN.
        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """
        tensor = self._find_shaped(name, shape)
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor {name!r} is stored as {tensor.dtype!r}, wanted one of {', '.join(FLOATS)}: "
                "take the checkpoint as it was before quantization"
            )
        values = np.empty(tensor.shape, dtype=np.float32)
        tensor.fill(values)
        num_bad = values.size - np.count_nonzero(np.isfinite(values))
        if num_bad:
            among = f"{values.size}, read as float32" if tensor.dtype == "F64" else str(values.size)
            raise CheckpointError(
                f"tensor {name!r} holds {num_bad} NaN or infinite values among {among}: "
                "the checkpoint is damaged, fetch it again or take another revision"
            )
        return values

    def read_integers(self, name: str, shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
        """One tensor of integers as a new C-contiguous array of the dtype that it is stored in.

        Raises: CheckpointError when it is missing, or has another shape or dtype.
        """
        tensor = self._find_shaped(name, shape)
        if tensor.dtype not in INTEGERS:
            raise CheckpointError(
                f"tensor {name!r} is stored as {tensor.dtype!r}, wanted one of {', '.join(INTEGERS)}: "
                "save the checkpoint as safetensors again, or take it as it was before quantization"
            )
        values: NDArray[np.integer[Any]] = np.empty(tensor.shape, dtype=INTEGERS[tensor.dtype])
        tensor.fill(values)
        return values

    @property
    def num_rounded(self) -> int:
        """None: the files hold numbers."""
        return 0

    def is_quantized(self, name: str) -> bool:
        """Never: the files hold numbers."""
        return False

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """Not to be called, as no tensor `is_quantized`."""
        raise CheckpointError(f"tensor {name!r} is stored as numbers, not as integers with scales")

    def coding(self, name: str) -> Coding:
        """Not to be called, as no tensor `is_quantized`."""
        raise CheckpointError(f"tensor {name!r} is stored as numbers, not as integers with scales")

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Not to be called, as no tensor `is_quantized`."""
        raise CheckpointError(f"tensor {name!r} is stored as numbers, not as integers with scales")

    def _find_shaped(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        tensor = self._find(name)
        check_shape(name, tensor.shape, shape)
        if 0 in tensor.shape:
            raise CheckpointError(f"tensor {name!r} has shape {list(tensor.shape)} and holds no values")
        return tensor

    def _find(self, name: str) -> StoredTensor:
        if name in self._tensors:
            return self._tensors[name]
        near = difflib.get_close_matches(name, self._tensors, n=3)
        hint = f"the nearest names are {', '.join(map(repr, near))}" if near else f"it has {len(self._tensors)} others"
        raise CheckpointError(f"the checkpoint has no tensor {name!r}: {hint}")


def check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise CheckpointError unless a tensor has the shape that config.json asks for."""
    if found != tuple(wanted):
        raise CheckpointError(
            f"tensor {name!r} has shape {list(found)}, wanted {list(wanted)}: "
            "config.json and the weights do not belong together"
        )
