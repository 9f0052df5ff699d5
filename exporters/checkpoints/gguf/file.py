"""The header of a GGUF file: the settings in front, and where each tensor lies.

The reader of the package gguf is not used: it makes an object of every number and text of the header, which takes 13
seconds and 740 MB for a vocabulary of 150,000 tokens, and it maps the weights into memory.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints.files import reading, refuse_lfs_pointer

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["GgufFile", "StoredBlocks"]

_VERSIONS: Final = (2, 3)
_NUMBERS: Final[Mapping[int, str]] = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i"},
    **{6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"},
}
_TEXT, _LIST = 8, 9
_ALIGNMENT: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlocks:
    """Where a tensor lies in the file. `shape` counts as numpy does, and the last axis is a whole number of blocks."""

    path: Path
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """The header of a GGUF file: its settings by key, and where each tensor lies, by the names of GGUF."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredBlocks]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read and check the header; no weight is read.

        Raises: CheckpointError for what is no whole little-endian GGUF file; ConfigError without the package gguf.
        Source: docs/gguf.md of the ggml project.
        """
        refuse_lfs_pointer(path)
        with reading(path, named=True) as file:
            header = _Header(path, file)
            header.check_start()
            num_tensors, num_settings = header.number("Q"), header.number("Q")
            metadata = {header.text(): header.value(header.number("I")) for _ in range(num_settings)}
            places = [header.place() for _ in range(num_tensors)]
            alignment = metadata.get("general.alignment", _ALIGNMENT)
            if not isinstance(alignment, int) or alignment < 1:
                raise CheckpointError(f"{path}: general.alignment must be a positive whole number, found {alignment!r}")
            start = -(-header.position // alignment) * alignment
        return cls(path=path, metadata=metadata, tensors={place[0]: header.stored(*place, start) for place in places})


class _Header:
    """Reads a header from front to back, never past the end of the file."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file = path, io.BufferedReader(file)
        self._file_bytes, self.position = os.fstat(file.fileno()).st_size, 0

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > self._file_bytes - self.position:
            raise CheckpointError(f"{self._path}: truncated inside its header: fetch the file again")
        self.position += num_bytes
        return self._file.read(num_bytes)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path}: a text in its header is not UTF-8: fetch it again") from error

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise CheckpointError(f"{self._path}: damaged: a setting is of the unknown kind {kind}: fetch it again")
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            dtype = np.dtype(f"<{_NUMBERS[kind]}")
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        if kind != _TEXT:
            raise CheckpointError(f"{self._path}: a setting is a list of the unknown kind {kind}: fetch it again")
        return self._texts(count)

    def _texts(self, count: int) -> list[str]:
        """The next texts, as `text` reads them: a vocabulary has a quarter of a million."""
        lengths, read, left = struct.Struct("<Q"), self._file.read, self._file_bytes - self.position
        texts: list[bytes] = []
        for _ in range(count):
            (length,) = lengths.unpack(read(8)) if left >= 8 else (left,)
            left -= 8 + length
            if left < 0:
                raise CheckpointError(f"{self._path}: truncated inside its header: fetch the file again")
            texts.append(read(length))
        self.position = self._file_bytes - left
        try:
            return [text.decode("utf-8") for text in texts]
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path}: a text in its header is not UTF-8: fetch it again") from error

    def check_start(self) -> None:
        """Raise CheckpointError unless a GGUF file of a version and byte order that we read begins here."""
        if self._file_bytes < 24 or self.take(4) != b"GGUF":
            raise CheckpointError(f"{self._path}: not a GGUF file: pass one, or the folder of a checkpoint")
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise CheckpointError(
                f"{self._path}: big-endian: turn a copy around with gguf-convert-endian {self._path.name} little"
            )
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self._path}: GGUF version {version}, wanted one of {', '.join(map(str, _VERSIONS))}: "
                "convert the checkpoint again"
            )

    def place(self) -> tuple[str, tuple[int, ...], int, int]:
        """The name, shape, kind and offset of the next tensor."""
        name, num_dimensions = self.text(), self.number("I")
        sizes = struct.unpack(f"<{num_dimensions}Q", self.take(8 * num_dimensions))
        return name, sizes[::-1], self.number("I"), self.number("Q")

    def stored(self, name: str, shape: tuple[int, ...], kind: int, offset: int, start: int) -> StoredBlocks:
        """The place of a tensor in a file whose data begins at `start`, checked."""
        known, (block_size, block_bytes) = _kind(self._path, name, kind)
        if not shape or shape[-1] % block_size:
            raise CheckpointError(
                f"{self._path}: tensor {name!r} of shape {list(shape)} is not made of blocks of {block_size} "
                f"({known.name}): the file is damaged, fetch it again"
            )
        num_bytes = math.prod(shape) // block_size * block_bytes
        end = start + offset + num_bytes
        if end > self._file_bytes:
            raise CheckpointError(
                f"{self._path}: truncated: tensor {name!r} ends at byte {end}, found {self._file_bytes}: "
                "fetch the file again"
            )
        return StoredBlocks(path=self._path, kind=known, shape=shape, offset=start + offset, num_bytes=num_bytes)


def _kind(path: Path, name: str, number: int) -> tuple[GGMLQuantizationType, tuple[int, int]]:
    """The kind of a tensor, with the numbers and the bytes of one block."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise ConfigError(f"{path}: reading it needs the package gguf: pip install skipstone[gguf]") from error
    try:
        kind = GGMLQuantizationType(number)
        return kind, GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: tensor {name!r} is of kind {number}, which the package gguf does not know: update the package"
        ) from error
