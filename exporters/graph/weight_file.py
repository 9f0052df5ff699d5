"""The one weight file of a bundle: a tensor goes there as soon as it is made, and the graph keeps a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.graph.rounding import Rounder, require_finite, rounded
from skipstone.quant import (
    Matrix,
    QuantizedMatrix,
    TensorRecipe,
    as_columns,
    half_exponent,
    pack,
    refine,
    unpack,
    whole_rows,
)

__all__ = ["INTEGERS", "StoredMatrix", "StoredScales", "WeightFile"]

ALIGNMENT = 64
# Linux keeps together what one call wrote, up to 2 MB, and maps it as a whole where one byte is read: so each row of an
# embedding that was read took 2 MB of memory.
_PIECE: Final = 1 << 16
INTEGERS: Final[Mapping[int, ir.DataType]] = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


@dataclass(frozen=True, slots=True)
class StoredScales:
    """Scales in the weight file: float32, or float16 where those times 2**`exponent` are the same numbers."""

    tensor: ir.ExternalTensor
    exponent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMatrix:
    """A matrix [N, K] in the weight file: numbers, or integers with what they mean.

    Numbers lie as they are, or `transposed`, [K, N]. So may integers; then K is in whole blocks, scales and zero points
    are [blocks, N], and the latter are always there. With `num_sums`, as many columns follow on K in whole blocks: what
    the sum of each block of inputs is multiplied by. The columns `kept_ids` [S] are numbers, `kept` [N, S].
    """

    rows: int
    columns: int
    bits: int
    data: ir.ExternalTensor
    transposed: bool = False
    block_size: int = 0
    scales: StoredScales | None = None
    zero_points: ir.ExternalTensor | None = None
    order: ir.ExternalTensor | None = None
    num_sums: int = 0
    kept_ids: ir.ExternalTensor | None = None
    kept: StoredScales | None = None

    @property
    def stored_columns(self) -> int:
        """Inputs of the product, sums among them."""
        return self.num_sums * (self.block_size + 1) if self.num_sums else self.columns


class WeightFile:
    """The one external data file of a bundle; equal names are stored once, so graphs can share a tensor.

    `rounder` gives the integers of numbers that are to be stored as such. Matrices of fewer bits than `least_bits`
    become wider integers of the same values, or numbers where that is 32. `numbers` is the type of all that is no
    integer, float32 or float16.
    """

    def __init__(
        self, path: Path, rounder: Rounder = rounded, *, least_bits: int = 2, numbers: str = "float32"
    ) -> None:
        self._path, self.rounder, self.least_bits, self.numbers = path, rounder, least_bits, np.dtype(numbers)
        self._file = path.open("wb")
        self._tensors: dict[str, ir.ExternalTensor] = {}
        self._matrices: dict[str, tuple[StoredMatrix, ...]] = {}

    def add(self, name: str, make: Callable[[], NDArray[np.generic]]) -> ir.ExternalTensor:
        """Return the stored tensor `name`, calling `make` and writing its result the first time it is asked for.

        Raises: CheckpointError, by name, for numbers that are infinite or NaN.
        """
        if name not in self._tensors:
            array = np.ascontiguousarray(self.as_numbers(make()))
            require_finite(name, array)
            self._tensors[name] = self._write(name, array)
        return self._tensors[name]

    def as_numbers(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return an array whose float32 are numbers of the file's type; what is too large there becomes infinite."""
        with np.errstate(over="ignore"):
            return array.astype(self.numbers) if array.dtype == np.float32 else array

    def add_matrices(
        self,
        name: str,
        make: Callable[[], Sequence[Matrix]],
        rule: TensorRecipe,
        *,
        transposed: bool = False,
        integers_too: bool = False,
    ) -> tuple[StoredMatrix, ...]:
        """Return the stored matrices that `make` gives, one under the other the matrix `name`.

        Numbers are stored by the rule, in 32 bits `transposed` where wanted; integers stay as they are, unless they are
        transposed too.
        """
        if name not in self._matrices:
            matrices = make()
            names = [name] if len(matrices) == 1 else [f"{name}.{index}" for index in range(len(matrices))]
            self._matrices[name] = tuple(
                self._add_matrix(own, matrix, rule, transposed, integers_too)
                for own, matrix in zip(names, matrices, strict=True)
            )
        return self._matrices[name]

    def _add_matrix(
        self, name: str, matrix: Matrix, rule: TensorRecipe, transposed: bool, integers_too: bool
    ) -> StoredMatrix:
        rows, columns = matrix.shape
        if self.least_bits == 32 and not isinstance(matrix, np.ndarray):
            matrix = matrix.dequantize()
        if isinstance(matrix, np.ndarray):
            if max(rule.bits, self.least_bits) == 32:
                numbers = matrix.T if transposed else matrix
                stored = self.add(f"{name}.transposed" if transposed else name, lambda: numbers)
                return StoredMatrix(rows=rows, columns=columns, bits=32, data=stored, transposed=transposed)
            matrix = self.rounder(name, matrix, rule)
        matrix = refine(matrix, bits=max(matrix.bits, self.least_bits), block_size=matrix.block_size)
        num_sums = 0
        if matrix.offsets is not None:
            num_sums = matrix.offsets.shape[1]
            matrix = as_columns(matrix)
        add = self._add_transposed if transposed and integers_too else self._add_integers
        integers = replace(add(name, matrix), columns=columns, num_sums=num_sums)
        if (ids := matrix.kept_ids) is None or (kept := matrix.kept) is None:
            return integers
        ids_tensor = self.add(f"{name}.kept_ids", lambda: ids)
        return replace(integers, kept_ids=ids_tensor, kept=self.add_scales(f"{name}.kept", kept))

    def _add_integers(self, name: str, matrix: QuantizedMatrix) -> StoredMatrix:
        points, order = matrix.zero_points, matrix.order
        return StoredMatrix(
            rows=matrix.shape[0],
            columns=matrix.shape[1],
            bits=matrix.bits,
            block_size=matrix.block_size,
            data=self.add(f"{name}.data", lambda: matrix.data),
            scales=self.add_scales(f"{name}.scales", matrix.scales),
            zero_points=None if points is None else self.add(f"{name}.zero_points", lambda: points),
            order=None if order is None else self.add(f"{name}.order", lambda: order),
        )

    def add_whole_rows(self, name: str, make: Callable[[], Sequence[Matrix]]) -> tuple[StoredMatrix, ...]:
        """Return the matrices that `make` gives as signed integers [K, N], with one scale for each output."""
        if name not in self._matrices:
            self._matrices[name] = (self._add_whole_rows(name, make()),)
        return self._matrices[name]

    def _add_whole_rows(self, name: str, matrices: Sequence[Matrix]) -> StoredMatrix:
        parts = [whole_rows(matrix) for matrix in matrices]
        values = np.concatenate([part.values for part in parts])
        rows, columns = values.shape
        return StoredMatrix(
            rows=rows,
            columns=columns,
            bits=8,
            transposed=True,
            data=self.add(f"{name}.data", lambda: values.T),
            scales=StoredScales(self.add(f"{name}.scales", lambda: np.concatenate([part.scales for part in parts]))),
        )

    def _add_transposed(self, name: str, matrix: QuantizedMatrix) -> StoredMatrix:
        bits, order, num_blocks = matrix.bits, matrix.order, matrix.scales.shape[1]
        values = unpack(matrix.data, bits, matrix.block_size).reshape(matrix.shape[0], -1)
        points = np.full(matrix.scales.shape, 2 ** (bits - 1), np.uint8)
        if matrix.zero_points is not None:
            points = unpack(matrix.zero_points, bits, num_blocks)
        return StoredMatrix(
            rows=matrix.shape[0],
            columns=matrix.shape[1],
            bits=bits,
            block_size=matrix.block_size,
            transposed=True,
            data=self.add_integers(f"{name}.data", values.T, bits),
            scales=self.add_scales(f"{name}.scales", matrix.scales.T),
            zero_points=self.add_integers(f"{name}.zero_points", points.T, bits),
            order=None if order is None else self.add(f"{name}.order", lambda: order),
        )

    def add_scales(self, name: str, scales: NDArray[np.float32]) -> StoredScales:
        """Return the stored scales `name`, in 16 bits where that changes none of them."""
        require_finite(name, scales)
        exponent = half_exponent(scales) if self.numbers == np.float32 else None
        if exponent is None:
            return StoredScales(self.add(name, lambda: scales))
        halves = np.ldexp(scales, -exponent).astype(np.float16)
        return StoredScales(self.add(name, lambda: halves), exponent)

    def add_integers(self, name: str, values: NDArray[np.uint8], bits: int) -> ir.ExternalTensor:
        """Return the stored tensor of small integers `name`, without a gap between its rows."""
        packed = self.add(name, lambda: pack(values.ravel(), bits))
        return self.view(packed, f"uint{bits}", values.shape, INTEGERS[bits])

    def view(
        self, tensor: ir.ExternalTensor, suffix: str, shape: Sequence[int], dtype: ir.DataType | None = None
    ) -> ir.ExternalTensor:
        """Return the bytes of a stored tensor in another shape, as another type; nothing is written."""
        name = f"{tensor.name}.{suffix}"
        return self._reference(name, dtype or tensor.dtype, shape, tensor.offset or 0, tensor.nbytes)

    def read_bytes(self, tensor: ir.ExternalTensor) -> NDArray[np.uint8]:
        """Return a stored tensor whose elements are bytes."""
        self._file.flush()
        values = np.fromfile(self._path, np.uint8, count=tensor.nbytes, offset=tensor.offset or 0)
        return values.reshape(tensor.shape.numpy())

    def read_matrix(self, matrix: StoredMatrix) -> QuantizedMatrix:
        """Return a stored matrix of integers, none of whose columns stand apart."""
        assert matrix.scales is not None and not (matrix.transposed or matrix.order or matrix.kept or matrix.num_sums)
        scales = self._read(matrix.scales.tensor).astype(np.float32)
        points = matrix.zero_points
        return QuantizedMatrix(
            data=self._read(matrix.data),
            scales=np.ldexp(scales, matrix.scales.exponent),
            zero_points=None if points is None else self._read(points),
            bits=matrix.bits,
            block_size=matrix.block_size,
            shape=(matrix.rows, matrix.columns),
        )

    def _read(self, tensor: ir.ExternalTensor) -> NDArray[Any]:
        self._file.flush()
        dtype = tensor.dtype.numpy()
        values = np.fromfile(self._path, dtype, count=tensor.nbytes // dtype.itemsize, offset=tensor.offset or 0)
        return values.reshape(tensor.shape.numpy())

    def first_rows(self, matrix: StoredMatrix, num_rows: int) -> StoredMatrix:
        """Return the first rows of a matrix, by the same bytes; nothing is written. It must not lie `transposed`."""
        return self.some_rows(matrix, 0, num_rows)

    def some_rows(self, matrix: StoredMatrix, start: int, end: int) -> StoredMatrix:
        """As `first_rows`, for the rows from `start` to `end`."""
        assert not matrix.transposed, "the rows of a transposed matrix lie apart"
        num_rows, scales = end - start, matrix.scales

        def cut(stored: ir.ExternalTensor) -> ir.ExternalTensor:
            _, *rest = stored.shape.numpy()
            row_bytes = stored.nbytes // matrix.rows
            name = f"{stored.name}.first_{end}" if not start else f"{stored.name}.rows_{start}_{end}"
            offset = (stored.offset or 0) + start * row_bytes
            return self._reference(name, stored.dtype, (num_rows, *rest), offset, num_rows * row_bytes)

        return replace(
            matrix,
            rows=num_rows,
            data=cut(matrix.data),
            scales=None if scales is None else replace(scales, tensor=cut(scales.tensor)),
            kept=None if matrix.kept is None else replace(matrix.kept, tensor=cut(matrix.kept.tensor)),
            zero_points=None if matrix.zero_points is None else cut(matrix.zero_points),
        )

    def _write(self, name: str, array: NDArray[np.generic]) -> ir.ExternalTensor:
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        data = array.data.cast("B")
        for start in range(0, len(data), _PIECE):
            self._file.write(data[start : start + _PIECE])
        return self._reference(name, ir.DataType.from_numpy(array.dtype), array.shape, offset, array.nbytes)

    def _reference(
        self, name: str, dtype: ir.DataType, shape: Sequence[int], offset: int, num_bytes: int
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self._path.name, offset, num_bytes, dtype, shape=ir.Shape(shape), name=name, base_dir=self._path.parent
        )

    def flush(self) -> None:
        """Let others read what was added; more may follow."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
