"""The weights of a checkpoint, one tensor at a time, as float32; and the reader of safetensors files.

Files are read in small pieces and never memory-mapped: no page of an earlier tensor stays with us, and a file that
shrinks while we read gives an error instead of a crash.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.quant import QuantizedMatrix

__all__ = [
    "StoredTensor",
    "StoredTensors",
    "blaming",
    "check_shape",
    "reading",
    "refuse_lfs_pointer",
    "safetensors_in",
]

# bfloat16 is the upper half of a float32, so its bits are read as integers and shifted.
_FLOATS: Final[Mapping[str, str]] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGERS: Final[Mapping[str, str]] = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1"}
_NUMPY_DTYPES: Final[Mapping[str, str]] = {**_FLOATS, **_INTEGERS}
_LFS_MARK: Final = b"version https://git-lfs"
_PIECE_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library
_MAX_DIMENSIONS: Final = 32  # the limit of numpy before 2.0


class StoredTensor(Protocol):
    """Where one tensor lies, and how to fill an array with it."""

    @property
    def dtype(self) -> str:
        """F64, F32, F16 or BF16; I64, I32, I16 or U8; any other name is a dtype that we do not read."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int: ...

    def fill(self, out: NDArray[np.generic]) -> None:
        """Write the values into `out`, which is C-contiguous, of our shape, and float32 or of our integer dtype."""
        ...


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

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        return self._find(name).shape

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array.

        Cost: the array itself, and a quarter of it for the search for NaN.
        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """
        tensor = self._find_shaped(name, shape)
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"tensor {name!r} is stored as {tensor.dtype!r}, wanted one of {', '.join(_FLOATS)}: "
                "take the checkpoint as it was before quantization"
            )
        values = np.empty(tensor.shape, dtype=np.float32)
        tensor.fill(values)
        num_bad = values.size - np.count_nonzero(np.isfinite(values))
        if num_bad:
            raise CheckpointError(
                f"tensor {name!r} holds {num_bad} NaN or infinite values among {values.size}: "
                "the checkpoint is damaged, fetch it again or take another revision"
            )
        return values

    def read_integers(self, name: str, shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
        """One tensor of integers as a new C-contiguous array of the dtype that it is stored in.

        Raises: CheckpointError when it is missing, or has another shape or dtype.
        """
        tensor = self._find_shaped(name, shape)
        if tensor.dtype not in _INTEGERS:
            raise CheckpointError(
                f"tensor {name!r} is stored as {tensor.dtype!r}, wanted one of {', '.join(_INTEGERS)}: "
                "save the checkpoint as safetensors again, or take it as it was before quantization"
            )
        values: NDArray[np.integer[Any]] = np.empty(tensor.shape, dtype=_INTEGERS[tensor.dtype])
        tensor.fill(values)
        return values

    def is_quantized(self, name: str) -> bool:
        """Never: the files hold numbers."""
        return False

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _SafetensorsTensor:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.num_bytes

    def fill(self, out: NDArray[np.generic]) -> None:
        flat = out.reshape(-1)
        dtype = np.dtype(_NUMPY_DTYPES[self.dtype])
        buffer = bytearray(_PIECE_BYTES)
        step = _PIECE_BYTES // dtype.itemsize
        with reading(self.path) as file:
            file.seek(self.offset)
            for start in range(0, flat.size, step):
                part = flat[start : start + step]
                wanted = part.size * dtype.itemsize
                if file.readinto(memoryview(buffer)[:wanted]) != wanted:
                    raise CheckpointError(f"{self.path}: the file became shorter while it was read")
                _convert(np.frombuffer(buffer, dtype, count=part.size), part, is_bfloat16=self.dtype == "BF16")


def _convert(stored: NDArray[np.generic], out: NDArray[np.generic], *, is_bfloat16: bool) -> None:
    if is_bfloat16:
        np.left_shift(stored, 16, out=out.view(np.uint32), dtype=np.uint32)
        return
    # What becomes infinite or stays NaN here is refused after the whole tensor is read.
    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = stored


def safetensors_in(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; reads and checks the header only.

    Raises: CheckpointError for a git-lfs pointer, a truncated file, or a header that breaks the format.
    Source: the format section of the safetensors README.
    """
    refuse_lfs_pointer(path)
    with reading(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        header, data_start = _header(file, path, file_bytes)
    tensors = {name: _tensor(path, name, entry, data_start) for name, entry in header.items() if name != "__metadata__"}
    _check_layout(path, tensors, data_start, file_bytes)
    return dict(tensors)


def _header(file: FileIO, path: Path, file_bytes: int) -> tuple[dict[str, object], int]:
    """The JSON header, and where the data begins."""
    if file_bytes < 8:
        raise CheckpointError(f"{path}: expected at least 8 bytes, found {file_bytes}: fetch the file again")
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: not a safetensors file: its header would be {header_bytes} bytes")
    if 8 + header_bytes > file_bytes:
        raise CheckpointError(
            f"{path}: truncated inside its header: expected at least {8 + header_bytes} bytes, found {file_bytes}: "
            "fetch the file again"
        )
    try:
        header = json.loads(file.read(header_bytes))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file: its header is not a JSON object")
    return header, 8 + header_bytes


def _tensor(path: Path, name: str, entry: object, data_start: int) -> _SafetensorsTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if (
            all(_is_size(size) for size in (*shape, begin, end)) and len(shape) <= _MAX_DIMENSIONS and begin <= end
        ):
            tensor = _SafetensorsTensor(
                path=path, dtype=dtype, shape=tuple(shape), offset=data_start + begin, num_bytes=end - begin
            )
            _check_num_bytes(name, tensor)
            return tensor
    raise CheckpointError(f"{path}: the header's entry for tensor {name!r} is not a dtype, a shape and two offsets")


def _check_num_bytes(name: str, tensor: _SafetensorsTensor) -> None:
    if tensor.dtype not in _NUMPY_DTYPES:
        return  # new dtypes come up, some with less than a byte per value; only reading one is refused
    wanted = math.prod(tensor.shape) * np.dtype(_NUMPY_DTYPES[tensor.dtype]).itemsize
    if tensor.num_bytes != wanted:
        raise CheckpointError(
            f"{tensor.path}: tensor {name!r} of shape {list(tensor.shape)} in {tensor.dtype}: "
            f"expected {wanted} bytes, found {tensor.num_bytes}"
        )


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_layout(path: Path, tensors: Mapping[str, _SafetensorsTensor], data_start: int, file_bytes: int) -> None:
    """The format wants tensors side by side from the header to the end of the file."""
    end = max((tensor.end for tensor in tensors.values()), default=data_start)
    if end != file_bytes:
        what = "truncated" if end > file_bytes else "longer than its header says"
        raise CheckpointError(f"{path}: {what}: expected {end} bytes, found {file_bytes}: fetch the file again")
    end = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].end)):
        if tensor.offset != end:
            what = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {name!r} {what}: expected byte {end}, found {tensor.offset}")
        end = tensor.end


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn the system's refusals into a CheckpointError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def reading(path: Path) -> Iterator[FileIO]:
    """The file, open for reading. Raises CheckpointError when the system refuses."""
    with blaming(path), path.open("rb", buffering=0) as file:
        yield file


def refuse_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError when git stored only a pointer to this file."""
    with reading(path) as file:
        if file.read(len(_LFS_MARK)) == _LFS_MARK:
            raise CheckpointError(f"{path}: is a git-lfs pointer, not weights: run git lfs pull")
