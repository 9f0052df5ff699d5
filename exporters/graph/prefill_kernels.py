"""The operators that read a prompt: many rows times a matrix, all in integers, at two to three times the speed.

Each row of activations has a scale of its own, found in the graph. Sums of integers are exact, so what a row gives does
not depend on the rows beside it: a prompt may be read in any pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from skipstone.exporters.graph.kernels import MICROSOFT, OrtKernels
from skipstone.exporters.graph.variant import GraphVariant
from skipstone.exporters.graph.weight_file import StoredMatrix
from skipstone.quant import Matrix, TensorRecipe
from skipstone.runtime.bundle import PREFILL

__all__ = ["PREFILL_GRAPHS", "PrefillKernels"]

_LEVELS: Final = 127  # of activations to either side of zero
_SMALLEST: Final = 1e-30  # a row of zeros has a scale too


class PrefillKernels(OrtKernels):
    """As onnxruntime decodes, with other products: all but those with matrices that are looked up by row too."""

    def matrices(
        self, name: str, make: Callable[[], Sequence[Matrix]], rule: TensorRecipe, *, shared: bool
    ) -> tuple[StoredMatrix, ...]:
        if shared or name == "head":
            return super().matrices(name, make, rule, shared=shared)
        return self.pen.file.add_whole_rows(f"prefill.{name}", make)

    def product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, *, accuracy_level: int = 4) -> ir.Value:
        if matrix.block_size:
            return super().product(x, matrix, bias, accuracy_level=accuracy_level)
        pen, scales = self.pen, matrix.scales
        assert scales is not None, "integers have scales"
        middle = pen.constant("middle", np.array(128, np.uint8))
        integers, row_scales = self._rounded(x, middle)
        one = pen.number("one", 1.0)
        product = pen.op(
            "MatMulIntegerToFloat",
            *(integers, pen.stored(matrix.data), one, pen.scales(scales), middle),
            domain=MICROSOFT,
        )
        scaled = pen.op("Mul", product, row_scales)
        return scaled if bias is None else pen.op("Add", scaled, bias)

    def _rounded(self, x: ir.Value, middle: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return rows [..., K] as integers around `middle`, and the scale of each [..., 1]."""
        pen = self.pen
        axis = pen.constant("last_axis", np.array([-1], np.int64))
        largest = pen.op("ReduceMax", pen.op("Abs", x), axis, keepdims=1)
        largest = pen.op("Max", largest, pen.number("smallest", _SMALLEST))
        scales = pen.op("Mul", largest, pen.number("level", 1 / _LEVELS))
        return pen.op("QuantizeLinear", pen.op("Div", x, scales), pen.number("one", 1.0), middle), scales


PREFILL_GRAPHS: Final = GraphVariant(kind=PREFILL, kernels=PrefillKernels, only_reads=True)
