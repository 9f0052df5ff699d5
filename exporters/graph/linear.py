"""Matrix products as ONNX nodes: in numbers, or in the integers of a recipe or of the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.graph.expert_rows import integers, one_hot
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.weight_file import StoredMatrix
from skipstone.quant import Matrix, Recipe, TensorRecipe

__all__ = ["Linear"]

_PIECE_BYTES: Final = 32 << 20  # smaller ones move no peak: it is elsewhere then
_MOST_PIECES: Final = 8
_ROWS: Final = 128  # a piece has a multiple of so many, but for the last


class Linear:
    """Writes products with transposed matrices [N, K] to one graph, stored as the recipe says."""

    def __init__(self, kernels: Kernels, recipe: Recipe) -> None:
        self._kernels, self._pen, self._recipe = kernels, kernels.pen, recipe
        # Integers that a checkpoint brings into an fp32 bundle are multiplied in float32; others round activations too.
        self._accuracy_level = 1 if recipe.kl_bound == 0 else 4
        self._with_sums: dict[tuple[ir.Value, int], ir.Value] = {}

    def __call__(
        self,
        x: ir.Value,
        name: str,
        make: Callable[[], Sequence[Matrix]],
        bias: NDArray[np.float32] | None = None,
        *,
        shared: bool = False,
        rule: TensorRecipe | None = None,
        rank: int = 3,
    ) -> ir.Value:
        """[..., K] to [..., N]: multiply by the matrices that `make` gives, one under the other, and add the bias [N].

        A `shared` matrix is looked up by row too, so it is not stored transposed; `x` then is [R, K]. A `rule` takes
        the place of the recipe's. `rank` is that of x.
        """
        pen, rule = self._pen, rule or self._recipe.for_tensor(name)
        parts = self._kernels.matrices(name, make, rule, shared=shared)
        whole = None if bias is None else pen.weight(f"{name}.bias", lambda: bias)
        if shared and len(parts) == 1 and parts[0].bits < 32 and not parts[0].transposed:
            parts = self._pieces(parts[0])
        if len(parts) == 1:
            return self._product(x, parts[0], whole, rank)
        joined = pen.op("Concat", *(self._product(x, part, None, rank) for part in parts), axis=-1)
        return joined if whole is None else pen.op("Add", joined, whole)

    def _pieces(self, matrix: StoredMatrix) -> tuple[StoredMatrix, ...]:
        """Return a large matrix as rows that are packed one after the other: its pages need not be there at once."""
        num_pieces = min(_MOST_PIECES, matrix.data.nbytes // _PIECE_BYTES)
        if num_pieces < 2:
            return (matrix,)
        size = -(-matrix.rows // num_pieces // _ROWS) * _ROWS
        starts = range(0, matrix.rows, size)
        return tuple(self._pen.file.some_rows(matrix, start, min(start + size, matrix.rows)) for start in starts)

    def stored(self, x: ir.Value, matrix: StoredMatrix) -> ir.Value:
        """[B, T, K] to [B, T, N]: multiply by a matrix that is stored already."""
        return self._product(x, matrix, None, rank=3)

    def some_rows(
        self, x: ir.Value, name: str, make: Callable[[], Matrix], num_first: int, row_ids: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """[R, K] to [R, `num_first`] and [R, P]: multiply by the first rows of a matrix, and by those of ids [P].

        The matrix brings no bytes of its own: it is stored by row already. The rows of the ids are multiplied in
        float32, whatever the matrix is stored as.
        """
        pen = self._pen
        (stored,) = pen.file.add_matrices(name, lambda: [make()], self._recipe.for_tensor(name))
        first = self._product(x, pen.file.first_rows(stored, num_first), None, rank=2)
        return first, pen.op("Gemm", self._ordered(x, stored), self.rows(name, row_ids, make), transB=1)

    def rows(self, name: str, token_ids: ir.Value, make: Callable[[], Matrix]) -> ir.Value:
        """Ids [...] to the rows [..., K] of a matrix [N, K]."""
        pen = self._pen
        (stored,) = pen.file.add_matrices(name, lambda: [make()], self._recipe.for_tensor(name))
        if stored.bits == 32:
            return pen.op("Gather", pen.stored(stored.data), token_ids)
        rows = self._kernels.rows(stored, token_ids)
        if stored.num_sums:
            rows = self._add_offsets(rows, stored, token_ids)
        rows = self._columns(rows, 0, stored.columns) if stored.columns % stored.block_size else rows
        return self._add_kept(rows, stored, token_ids)

    def _add_kept(self, rows: ir.Value, matrix: StoredMatrix, row_ids: ir.Value) -> ir.Value:
        """Return rows [..., K] with the columns that are numbers, which are 0 among the integers."""
        if matrix.kept is None or matrix.kept_ids is None:
            return rows
        pen = self._pen
        places = one_hot(pen, pen.stored(matrix.kept_ids), matrix.columns)  # [S, K]
        return pen.op("Add", rows, pen.op("MatMul", pen.op("Gather", pen.scales(matrix.kept), row_ids), places))

    def _add_offsets(self, rows: ir.Value, matrix: StoredMatrix, row_ids: ir.Value) -> ir.Value:
        """Return the columns [..., n * S] of stored rows, each plus the offset of its block: these stand after them."""
        pen, size, num_blocks = self._pen, matrix.block_size, matrix.num_sums
        columns, offsets = (
            pen.op("Reshape", self._columns(rows, start, end), integers(pen, -1, num_blocks, width))
            for start, end, width in ((0, num_blocks * size, size), (num_blocks * size, matrix.stored_columns, 1))
        )
        shape = pen.op("Concat", pen.op("Shape", row_ids), integers(pen, num_blocks * size), axis=0)
        return pen.op("Reshape", pen.op("Add", columns, offsets), shape)

    def _columns(self, x: ir.Value, start: int, end: int) -> ir.Value:
        return self._pen.op("Slice", x, *(integers(self._pen, number) for number in (start, end, -1)))

    def _ordered(self, x: ir.Value, matrix: StoredMatrix) -> ir.Value:
        """Return x [..., K] in the order in which the columns of a matrix are stored."""
        return x if matrix.order is None else self._pen.op("Gather", x, self._pen.stored(matrix.order), axis=-1)

    def _summed(self, x: ir.Value, matrix: StoredMatrix, rank: int) -> ir.Value:
        """Return x [..., K], filled up to whole blocks, and after them the sum of each; once for the same x."""
        pen, size = self._pen, matrix.block_size
        if (x, size) not in self._with_sums:
            filling = -matrix.columns % size
            whole = pen.op("Pad", x, integers(pen, 0, filling), None, integers(pen, -1)) if filling else x
            blocks = pen.op("Reshape", whole, integers(pen, *(0,) * (rank - 2), -1, matrix.num_sums, size))
            sums = pen.op("ReduceSum", blocks, integers(pen, -1), keepdims=0)
            self._with_sums[x, size] = pen.op("Concat", whole, sums, axis=-1)
        return self._with_sums[x, size]

    def _product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, rank: int) -> ir.Value:
        if matrix.bits < 32:
            given = self._summed(x, matrix, rank) if matrix.num_sums else self._ordered(x, matrix)
            product = self._kernels.product(given, matrix, bias, accuracy_level=self._accuracy_level)
            return product if matrix.kept is None else self._pen.op("Add", product, self._kept_product(x, matrix))
        pen, data = self._pen, self._pen.stored(matrix.data)
        product = pen.op("MatMul", x, data) if matrix.transposed else pen.op("Gemm", x, data, transB=1)
        return product if bias is None else pen.op("Add", product, bias)

    def _kept_product(self, x: ir.Value, matrix: StoredMatrix) -> ir.Value:
        """Return the product with the columns that are numbers; devices transpose these once."""
        pen = self._pen
        assert matrix.kept is not None and matrix.kept_ids is not None, "some columns are numbers"
        some = pen.op("Gather", x, pen.stored(matrix.kept_ids), axis=-1)
        return pen.op("MatMul", some, pen.op("Transpose", pen.scales(matrix.kept), perm=[1, 0]))
