"""GGUF files: the settings in front, and the tensors behind them as a checkpoint has them.

The package gguf turns blocks into numbers. Its reader is not used: it makes an object of every number and text of the
header, which takes 13 seconds and 740 MB for a vocabulary of 150,000 tokens, and it maps the weights into memory.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, ConfigError, UnsupportedModel
from skipstone.exporters.tensors import StoredTensors, check_shape, reading, refuse_lfs_pointer
from skipstone.quant import QuantizedMatrix, pack

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["GgufFile", "GgufTensor", "GgufTensors", "Settings", "StoredBlocks"]

Bytes: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = "slice | NDArray[np.int64]"

_VERSIONS: Final = (2, 3)
_NUMBERS: Final[Mapping[int, str]] = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i"},
    **{6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"},
}
_TEXT, _LIST = 8, 9
_ALIGNMENT: Final = 32
_PIECE_BYTES: Final = 1 << 20
# Bits of the integers that MatMulNBits can take as they are: blocks of 32 with one float16 scale and no offset.
_CARRIED: Final[Mapping[str, int]] = {"Q4_0": 4, "Q8_0": 8}
_BLOCK: Final = 32
# Settings that say nothing about the mathematics.
_IDLE: Final = frozenset({"vocab_size", "rope.scaling.finetuned", "tensor_data_layout"})
_WANTED: Final[Mapping[type, str]] = {
    **{int: "a whole number", float: "a finite number"},
    **{bool: "true or false", str: "a text"},
}
T = TypeVar("T", int, float, bool, str)


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
        with reading(path) as file:
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
        return [self.text() for _ in range(count)]

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GgufTensor:
    """A tensor of the checkpoint inside a file, undoing what a converter did to it.

    `part` picks one of those that are stacked along the first axis. Row i in the file is row order[i] of ours. `added`
    is what was added to each number. A `transposed` matrix is stored [N, K] and ours is [K, N].
    """

    blocks: StoredBlocks
    part: int | None = None
    order: NDArray[np.int64] | None = None
    added: float = 0.0
    transposed: bool = False

    @property
    def dtype(self) -> str:
        """What `fill` gives, whatever the file holds."""
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self._stored_shape[::-1] if self.transposed else self._stored_shape

    @property
    def num_bytes(self) -> int:
        return self.blocks.num_bytes if self.part is None else self.blocks.num_bytes // self.blocks.shape[0]

    @property
    def bits(self) -> int | None:
        """Bits of the integers that can be carried over; None where there are none."""
        plain = len(self.shape) == 2 and not self.transposed and not self.added
        return _CARRIED.get(self.blocks.kind.name) if plain else None

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        return self.blocks.shape if self.part is None else self.blocks.shape[1:]

    def fill(self, out: NDArray[np.generic]) -> None:
        """Write the numbers into `out`, float32 and of our shape. Raises: CheckpointError for unknown blocks."""
        from gguf.quants import dequantize

        target = out.T if self.transposed else out
        for rows, stored in self._pieces():
            try:
                numbers = dequantize(stored, self.blocks.kind)
            except NotImplementedError as error:
                raise CheckpointError(
                    f"{self.blocks.path}: the package gguf cannot turn {self.blocks.kind.name} into numbers: "
                    "take a file with another quantization"
                ) from error
            target[rows] = numbers.reshape(-1, *self._stored_shape[1:]) - np.float32(self.added)

    def integers(self) -> QuantizedMatrix:
        """The matrix [N, K] with its integers as they are. Only where there are `bits`."""
        bits, (num_rows, columns) = self.bits, self.shape
        assert bits is not None
        num_blocks, block_bytes = columns // _BLOCK, _BLOCK * bits // 8
        data = np.empty((num_rows, num_blocks, block_bytes), np.uint8)
        scales = np.empty((num_rows, num_blocks), np.float32)
        for rows, stored in self._pieces():
            blocks = stored.reshape(-1, num_blocks, 2 + block_bytes)
            scales[rows] = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
            data[rows] = _unsigned(blocks[..., 2:], bits)
        return QuantizedMatrix(
            data=data, scales=scales, zero_points=None, bits=bits, block_size=_BLOCK, shape=(num_rows, columns)
        )

    def _pieces(self) -> Iterator[tuple[Rows, Bytes]]:
        """Yield the bytes of some stored rows, and which of our rows they are, until all were there."""
        num_rows, row_bytes = self._stored_shape[0], self.num_bytes // self._stored_shape[0]
        step = max(1, _PIECE_BYTES // row_bytes) if len(self._stored_shape) > 1 else num_rows
        with reading(self.blocks.path) as file:
            file.seek(self.blocks.offset + (self.part or 0) * self.num_bytes)
            for start in range(0, num_rows, step):
                rows = slice(start, min(start + step, num_rows))
                stored = np.frombuffer(file.read((rows.stop - start) * row_bytes), np.uint8)
                if stored.size != (rows.stop - start) * row_bytes:
                    raise CheckpointError(f"{self.blocks.path}: the file became shorter while it was read")
                yield rows if self.order is None else self.order[rows], stored


def _unsigned(stored: Bytes, bits: int) -> Bytes:
    """The integers of blocks [..., bytes], as MatMulNBits has them: no sign, neighbours side by side."""
    if bits == 8:
        return stored ^ np.uint8(128)
    # The low halves of the 16 bytes are the first 16 integers of a block.
    return pack(np.concatenate([stored & np.uint8(15), stored >> np.uint8(4)], axis=-1), bits)


class GgufTensors(StoredTensors):
    """A TensorSource: the tensors of a GGUF file by the names of Hugging Face."""

    def __init__(self, tensors: Mapping[str, GgufTensor]) -> None:
        super().__init__(tensors)
        self._gguf = dict(tensors)

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is a matrix in Q4_0 or Q8_0; the other kinds of blocks are read as numbers."""
        return name in self._gguf and self._gguf[name].bits is not None

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K]. Raises: as `read` does. Cost: the matrix and a megabyte."""
        if not self.is_quantized(name):
            return super().read_quantized(name, shape)
        check_shape(name, self.shape(name), shape)
        matrix = self._gguf[name].integers()
        if not np.isfinite(matrix.scales).all():
            raise CheckpointError(f"tensor {name!r} has NaN or infinite scales: the file is damaged, fetch it again")
        return matrix


class Settings:
    """The settings of a file that stand under its architecture's name; remembers which were asked for."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._asked = set(_IDLE)
        if file.metadata.get("split.count", 1) not in (0, 1):
            raise UnsupportedModel(f"{file.path}: one part of several: join them with llama-gguf-split --merge")
        architecture = file.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(f"{file.path}: lacks general.architecture: convert the checkpoint again")
        self.architecture = architecture

    def raw(self, key: str) -> Any:
        """The value of a key as it stands, None where it is missing."""
        self._asked.add(key)
        return self.file.metadata.get(f"{self.architecture}.{key}")

    def shared(self, key: str) -> Any:
        """The value of a key; where layers have one each, the one of all."""
        value = self.raw(key)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            what = f"{self.architecture}.{key} differs between layers, which is not supported"
            raise UnsupportedModel(f"{self.file.path}: {what}")
        return value[0]

    def get(self, key: str, otherwise: T) -> T:
        """The value of a key, of the type of `otherwise`."""
        value = self.shared(key)
        return otherwise if value is None else self._checked(key, value, type(otherwise))

    def required(self, key: str, kind: type[T]) -> T:
        """The value of a key that a file must have."""
        value = self.shared(key)
        if value is None:
            raise CheckpointError(f"{self.file.path}: lacks {self.architecture}.{key}: convert the checkpoint again")
        return self._checked(key, value, kind)

    def size(self, key: str, otherwise: int | None = None) -> int:
        """A number of things that must be there."""
        value = self.required(key, int) if otherwise is None else self.get(key, otherwise)
        if value < 1:
            raise self._odd(key, value, "a positive whole number")
        return value

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not math.isfinite(value)):
            raise self._odd(key, value, _WANTED[kind])
        return kind(value)

    def _odd(self, key: str, value: object, wanted: str) -> CheckpointError:
        what = f"{self.architecture}.{key} must be {wanted}, found {value!r}"
        return CheckpointError(f"{self.file.path}: {what}: the file is damaged, fetch it again")

    def require(self, key: str, wanted: tuple[object, ...]) -> None:
        """Raise UnsupportedModel unless the key is missing or has one of the values."""
        value = self.shared(key)
        if value is not None and value not in wanted:
            raise UnsupportedModel(f"{self.file.path}: {self.architecture}.{key} = {value!r} is not supported")

    def has(self, tensor: str) -> bool:
        """Whether the first layer has a tensor."""
        return f"blk.0.{tensor}" in self.file.tensors

    def numbers(self, tensor: str) -> list[float]:
        """A small tensor as a list. Raises: CheckpointError when it is missing or damaged."""
        blocks = self.file.tensors.get(tensor)
        if blocks is None:
            raise CheckpointError(f"{self.file.path}: has no tensor {tensor!r}: convert the checkpoint again")
        numbers: list[float] = GgufTensors({tensor: GgufTensor(blocks=blocks)}).read(tensor, blocks.shape).tolist()
        return numbers

    def check_all_asked(self) -> None:
        """Raise UnsupportedModel for a setting that nobody asked for: it could change the mathematics."""
        start = f"{self.architecture}."
        keys = {key.removeprefix(start) for key in self.file.metadata if key.startswith(start)}
        if unknown := sorted(keys - self._asked):
            raise UnsupportedModel(
                f"{self.file.path}: {self.architecture}.{unknown[0]} is not supported: "
                "export the checkpoint that the file was made from"
            )
