"""The reader of safetensors files, in small pieces and never memory-mapped.

No page of an earlier tensor stays with us, and a file that shrinks while we read gives an error instead of a crash.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import reading, refuse_lfs_pointer
from skipstone.exporters.checkpoints.tensors import INTEGERS, StoredTensor

__all__ = ["safetensors_in"]

# bfloat16 is the upper half of a float32, so its bits are read as integers and shifted.
_NUMPY_DTYPES: Final[Mapping[str, str]] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", **INTEGERS}
_PIECE_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library
_MAX_DIMENSIONS: Final = 32  # the limit of numpy before 2.0


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
