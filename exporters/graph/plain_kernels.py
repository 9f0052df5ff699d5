"""The operators of the target `plain`: all are in the ONNX standard, so any provider may take them.

Shapes: B batch, T tokens, E hidden size, X experts, I inner size of an expert, A active experts of a token, N rows and
K columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from skipstone.exporters.families import Experts
from skipstone.exporters.graph.all_experts import mix_of_all
from skipstone.exporters.graph.expert_rows import integers
from skipstone.exporters.graph.expert_store import ExpertStack, StoredExperts
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.plain_attention import PlainAttention
from skipstone.exporters.graph.step_inputs import AttentionLayer, StepInputs
from skipstone.exporters.graph.weight_file import INTEGERS, StoredMatrix, StoredScales
from skipstone.quant import Matrix, TensorRecipe, unpack

__all__ = ["PlainKernels"]


class PlainKernels(Kernels):
    """Standard operators: integers become numbers by blocks before they are multiplied, activations stay float32."""

    opsets: ClassVar[Mapping[str, int]] = {"": 23}
    ir_version = 11
    is_exact = False
    has_attention_rows = False
    has_int8_cache = False
    has_experts = False
    rms_norm = "RMSNormalization"
    least_bits = 4  # ONNX has integers of 2 bits only from opset 25 on

    def __init__(self, pen: GraphPen) -> None:
        super().__init__(pen)
        self._attention = PlainAttention(pen)

    def model(self) -> ir.Model:
        """Return the graph with what leads to its outputs; of some weights other types or shapes are read."""
        model = super().model()
        passes.RemoveUnusedNodesPass()(model)
        return model

    def times_sigmoid(self, x: ir.Value, factor: float) -> ir.Value:
        pen = self.pen
        scaled = x if factor == 1 else pen.op("Mul", x, pen.number(f"sigmoid_factor_{factor}", factor))
        return pen.op("Mul", x, pen.op("Sigmoid", scaled))

    def norm_sum(
        self, kind: str, stream: ir.Value, update: ir.Value, *weights: ir.Value, epsilon: float
    ) -> tuple[ir.Value, ir.Value]:
        total = self.pen.op("Add", stream, update)
        return self.norm(kind, total, *weights, epsilon=epsilon), total

    def attend(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: AttentionLayer, step: StepInputs
    ) -> Sequence[ir.Value]:
        return self._attention(parts, past, layer, step)

    # Integers

    def matrices(
        self, name: str, make: Callable[[], Sequence[Matrix]], rule: TensorRecipe, *, shared: bool
    ) -> tuple[StoredMatrix, ...]:
        """Integers are stored in the order in which providers multiply them; those also looked up by row, twice."""
        if shared and rule.bits == 32:
            return super().matrices(name, make, rule, shared=shared)
        return self.pen.file.add_matrices(
            f"{name}.by_column" if shared else name, make, rule, transposed=True, integers_too=True
        )

    def product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, *, accuracy_level: int = 4) -> ir.Value:
        """x is not rounded, unless onnxruntime fuses the nodes, which it does from the level ORT_ENABLE_EXTENDED on."""
        pen = self.pen
        if filling := -matrix.stored_columns % matrix.block_size:
            x = pen.op("Pad", x, integers(pen, 0, filling), None, integers(pen, -1))
        if matrix.transposed:
            assert matrix.scales is not None and matrix.zero_points is not None, "integers in columns have both"
            tensors = (pen.stored(matrix.data), pen.scales(matrix.scales), pen.stored(matrix.zero_points))
            numbers = pen.op("DequantizeLinear", *tensors, axis=0, block_size=matrix.block_size)
        else:
            by_row = self._numbers(matrix.data, matrix.scales, matrix.zero_points, matrix.bits, matrix.block_size)
            numbers = pen.op("Transpose", by_row, perm=[1, 0])
        product = pen.op("MatMul", x, numbers)
        return product if bias is None else pen.op("Add", product, bias)

    def rows(self, matrix: StoredMatrix, row_ids: ir.Value) -> ir.Value:
        """The rows are taken as integers, so that the cost does not grow with N."""
        assert matrix.scales is not None, "integers have scales"
        pen, flat = self.pen, self.pen.op("Reshape", row_ids, integers(self.pen, -1))
        values = self._unpacked_rows(matrix.data, matrix.rows, flat, matrix.bits)
        scales = pen.op("Gather", pen.scales(matrix.scales), flat)
        if matrix.zero_points is None:
            middle = pen.constant(f"middle_{matrix.bits}", np.array([2 ** (matrix.bits - 1)], np.uint8))
            points = pen.op("Expand", middle, pen.op("Shape", scales))
        else:
            points = self._unpacked_rows(matrix.zero_points, matrix.rows, flat, matrix.bits)
            num_blocks = matrix.scales.tensor.shape.numpy()[1]
            points = pen.op("Slice", points, *(integers(pen, number) for number in (0, num_blocks, 1)))
        rows = pen.op("DequantizeLinear", values, scales, points, axis=1, block_size=matrix.block_size)
        shape = pen.op("Concat", pen.op("Shape", row_ids), integers(pen, -1), axis=0)
        return pen.op("Reshape", rows, shape)

    def _unpacked_rows(self, stored: ir.ExternalTensor, num_rows: int, row_ids: ir.Value, bits: int) -> ir.Value:
        """Return rows of packed integers, one in each byte [R, K]; with 4 bits there may be one too many at the end."""
        pen = self.pen
        packed = pen.op("Gather", pen.view(stored, "by_row", (num_rows, stored.nbytes // num_rows)), row_ids)
        if bits == 8:
            return packed
        low = pen.op("BitwiseAnd", packed, pen.constant("low_bits", np.array(15, np.uint8)))
        high = pen.op("BitShift", packed, pen.constant("half_a_byte", np.array(4, np.uint8)), direction="RIGHT")
        pairs = (pen.op("Unsqueeze", part, integers(pen, 2)) for part in (low, high))
        return pen.op("Reshape", pen.op("Concat", *pairs, axis=2), integers(pen, 0, -1))

    def _numbers(
        self,
        data: ir.ExternalTensor,
        scales: StoredScales | None,
        zero_points: ir.ExternalTensor | None,
        bits: int,
        block_size: int,
    ) -> ir.Value:
        """Return the numbers [..., N, K] that stored integers mean, K filled up to whole blocks."""
        assert scales is not None, "integers have scales"
        pen, (*outer, num_blocks) = self.pen, scales.tensor.shape.numpy()
        by_column = (*outer, num_blocks * block_size)
        return pen.op(
            "DequantizeLinear",
            pen.view(data, "by_column", by_column, INTEGERS[bits]),
            pen.scales(scales),
            self._points(data, scales.tensor, zero_points, bits),
            axis=len(outer),
            block_size=block_size,
        )

    def _points(
        self, data: ir.ExternalTensor, scales: ir.ExternalTensor, zero_points: ir.ExternalTensor | None, bits: int
    ) -> ir.Value:
        """Return the zero points [..., N, blocks]: without a gap after each row, and also where all are alike."""
        points = np.full(scales.shape.numpy(), 2 ** (bits - 1), np.uint8)
        if zero_points is not None:
            points = unpack(self.pen.file.read_bytes(zero_points), bits, points.shape[-1])
        return self.pen.integers(f"{data.name}.points", points, bits)

    # Experts

    def mix_experts(
        self, x: ir.Value, choice: ir.Value, weights: ir.Value, experts: Experts, stored: StoredExperts
    ) -> ir.Value:
        return mix_of_all(self, x, choice, weights, experts, stored, self._expert_numbers)

    def _expert_numbers(self, stack: ExpertStack, form: TensorRecipe) -> ir.Value:
        """Return the matrices of all experts [X, N, K] as numbers."""
        if form.bits == 32:
            return self.pen.stored(stack.data)
        return self._numbers(stack.data, stack.scales, stack.zero_points, form.bits, form.block_size)
