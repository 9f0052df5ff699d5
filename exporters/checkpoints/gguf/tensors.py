"""The tensors of a GGUF file as a checkpoint has them; the package gguf turns blocks into numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import reading
from skipstone.exporters.checkpoints.gguf.file import StoredBlocks
from skipstone.exporters.checkpoints.gguf.integers import KINDS, BlockKind
from skipstone.exporters.checkpoints.tensors import Coding, StoredTensors, check_shape
from skipstone.quant import AffineRows, QuantizedMatrix

__all__ = ["GgufTensor", "GgufTensors"]

Bytes: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = "slice | NDArray[np.int64]"

_SAMPLE_BYTES: Final = 1 << 13
_NUMBERS: Final = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GgufTensor:
    """A tensor of the checkpoint inside a file, undoing what a converter did to it.

    `part` picks one of those that are stacked along the first axis. Row i in the file is row order[i] of ours. `added`
    is what was added to each number. A `transposed` matrix is stored [N, K] and ours is [K, N]. The file is read in
    pieces of about `piece_bytes`.
    """

    blocks: StoredBlocks
    part: int | None = None
    order: NDArray[np.int64] | None = None
    added: float = 0.0
    transposed: bool = False
    piece_bytes: int = 1 << 20

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
    def integers_kind(self) -> BlockKind | None:
        """How the integers of a matrix are carried over; None where there are none."""
        plain = len(self.shape) == 2 and not self.transposed and not self.added
        return KINDS.get(self.blocks.kind.name) if plain else None

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
        """The matrix [N, K] with its integers; in 8 bits where those of its kind do not do. See `integers_kind`.

        Raises: ValueError for scales that are NaN or infinite.
        """
        kind = self.integers_kind
        assert kind is not None
        if self.part is not None and kind.has_lowest:  # an expert: its operator takes no offsets
            return self._collected(kind, 8).matrix(offsets=False)
        rows = self._collected(kind, kind.bits)
        return (rows if rows.fits or rows.bits == 8 else self._collected(kind, 8)).matrix()

    def _collected(self, kind: BlockKind, bits: int) -> AffineRows:
        num_rows, columns = self.shape
        collected = AffineRows((num_rows, columns), bits=bits, block_size=kind.block_size, highest=kind.highest)
        row_shape = (self.num_bytes // num_rows // kind.num_bytes, kind.num_bytes)
        for rows, stored in self._pieces():
            collected.fill(rows, *kind.read(stored.reshape(-1, *row_shape)))
        return collected

    def first_rows(self, num_bytes: int) -> GgufTensor:
        """Some of the rows [N, K], in about so many bytes, in the order of the file."""
        num_rows = self._stored_shape[0]
        few = max(1, min(num_rows, num_bytes * num_rows // self.num_bytes))
        blocks = replace(
            self.blocks,
            shape=(*(() if self.part is None else (1,)), few, *self._stored_shape[1:]),
            offset=self.blocks.offset + (self.part or 0) * self.num_bytes,
            num_bytes=self.num_bytes // num_rows * few,
        )
        return replace(self, blocks=blocks, part=None if self.part is None else 0, order=None)

    def _pieces(self) -> Iterator[tuple[Rows, Bytes]]:
        """Yield the bytes of some stored rows, and which of our rows they are, until all were there."""
        num_rows, row_bytes = self._stored_shape[0], self.num_bytes // self._stored_shape[0]
        step = max(1, self.piece_bytes // row_bytes) if len(self._stored_shape) > 1 else num_rows
        with reading(self.blocks.path, named=True) as file:
            file.seek(self.blocks.offset + (self.part or 0) * self.num_bytes)
            for start in range(0, num_rows, step):
                rows = slice(start, min(start + step, num_rows))
                stored = np.frombuffer(file.read((rows.stop - start) * row_bytes), np.uint8)
                if stored.size != (rows.stop - start) * row_bytes:
                    raise CheckpointError(f"{self.blocks.path}: the file became shorter while it was read")
                yield rows if self.order is None else self.order[rows], stored


class GgufTensors(StoredTensors):
    """A TensorSource: the tensors of a GGUF file by the names of Hugging Face."""

    def __init__(self, tensors: Mapping[str, GgufTensor]) -> None:
        super().__init__(tensors)
        self._gguf = dict(tensors)

    @property
    def num_rounded(self) -> int:
        """How many tensors lie in blocks that are none of those that `is_quantized` knows."""
        return sum(
            tensor.integers_kind is None and tensor.blocks.kind.name not in _NUMBERS for tensor in self._gguf.values()
        )

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is a matrix of integers that are carried over; other blocks are read as numbers."""
        return name in self._gguf and self._gguf[name].integers_kind is not None

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K]. Raises: as `read` does. Cost: the matrix and some megabytes."""
        if not self.is_quantized(name):
            return super().read_quantized(name, shape)
        check_shape(name, self.shape(name), shape)
        try:
            return self._gguf[name].integers()
        except ValueError as error:
            raise CheckpointError(f"tensor {name!r} has {error}: the file is damaged, fetch it again") from error

    def coding(self, name: str) -> Coding:
        """How the blocks of a tensor for which `is_quantized` holds are carried over."""
        kind = self._gguf[name].integers_kind
        assert kind is not None, "asked for integers only"
        return Coding(kind=self._gguf[name].blocks.kind.name, is_native=kind.is_native, is_exact=kind.is_exact)

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Its first rows as integers, and their numbers. Raises: as `read` does."""
        first = self._gguf[name].first_rows(_SAMPLE_BYTES)
        few = GgufTensors({name: first})
        return few.read_quantized(name, (first.shape[0], first.shape[1])), few.read(name, first.shape)
