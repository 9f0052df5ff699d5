"""Matrix products as ONNX nodes: in numbers, or in the integers of a recipe or of the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.weight_file import StoredMatrix
from skipstone.quant import Matrix, Recipe

__all__ = ["Linear"]


class Linear:
    """Writes products with transposed matrices [N, K] to one graph, stored as the recipe says."""

    def __init__(self, kernels: Kernels, recipe: Recipe) -> None:
        self._kernels, self._pen, self._recipe = kernels, kernels.pen, recipe
        # Integers that a checkpoint brings into an fp32 bundle are multiplied in float32; others round activations too.
        self._accuracy_level = 1 if recipe.kl_bound == 0 else 4

    def __call__(
        self,
        x: ir.Value,
        name: str,
        make: Callable[[], Sequence[Matrix]],
        bias: NDArray[np.float32] | None = None,
        *,
        shared: bool = False,
    ) -> ir.Value:
        """[..., K] to [..., N]: multiply by the matrices that `make` gives, one under the other, and add the bias [N].

        A `shared` matrix is looked up by row too, so it is not stored transposed; `x` then is [R, K].
        """
        pen, rule = self._pen, self._recipe.for_tensor(name)
        parts = self._kernels.matrices(name, make, rule, shared=shared)
        whole = None if bias is None else pen.weight(f"{name}.bias", lambda: bias)
        if len(parts) == 1:
            return self._product(x, parts[0], whole)
        joined = pen.op("Concat", *(self._product(x, part, None) for part in parts), axis=-1)
        return joined if whole is None else pen.op("Add", joined, whole)

    def some_rows(
        self, x: ir.Value, name: str, make: Callable[[], Matrix], num_first: int, row_ids: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """[R, K] to [R, `num_first`] and [R, P]: multiply by the first rows of a matrix, and by those of ids [P].

        The matrix brings no bytes of its own: it is stored by row already. The rows of the ids are multiplied in
        float32, whatever the matrix is stored as.
        """
        pen = self._pen
        (stored,) = pen.file.add_matrices(name, lambda: [make()], self._recipe.for_tensor(name))
        first = self._product(x, pen.file.first_rows(stored, num_first), None)
        return first, pen.op("Gemm", self._kernels.ordered(x, stored), self.rows(name, row_ids, make), transB=1)

    def rows(self, name: str, token_ids: ir.Value, make: Callable[[], Matrix]) -> ir.Value:
        """Ids [...] to the rows [..., K] of a matrix [N, K]."""
        pen = self._pen
        (stored,) = pen.file.add_matrices(name, lambda: [make()], self._recipe.for_tensor(name))
        if stored.bits == 32:
            return pen.op("Gather", pen.stored(stored.data), token_ids)
        rows = self._kernels.rows(stored, token_ids)
        if stored.columns % stored.block_size == 0:
            return rows
        borders = {"start": 0, "end": stored.columns, "axis": -1}
        ends = (pen.constant(f"{name}.row_{key}", np.array([at])) for key, at in borders.items())
        return pen.op("Slice", rows, *ends)

    def _product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None) -> ir.Value:
        if matrix.bits < 32:
            return self._kernels.product(x, matrix, bias, accuracy_level=self._accuracy_level)
        pen, data = self._pen, self._pen.stored(matrix.data)
        product = pen.op("MatMul", x, data) if matrix.transposed else pen.op("Gemm", x, data, transB=1)
        return product if bias is None else pen.op("Add", product, bias)
