"""The operators of the target `cuda`: onnxruntime's fused ones over float16, as its CUDA provider has them."""

from __future__ import annotations

import onnx_ir as ir

from skipstone.exporters.families import Experts
from skipstone.exporters.graph.all_experts import mix_of_all
from skipstone.exporters.graph.expert_store import StoredExperts
from skipstone.exporters.graph.kernels import OrtKernels
from skipstone.exporters.graph.weight_file import StoredMatrix

__all__ = ["CudaKernels"]


class CudaKernels(OrtKernels):
    """Numbers, scales and the cache are float16. Integers of 4 and 8 bits are multiplied as they are.

    The CUDA provider wants the packed experts of a mixture in an order of its own, so they stay numbers here. It has no
    bias in its product with integers.
    """

    is_exact = False  # how a row is multiplied depends on how many there are
    has_attention_rows = False
    has_int8_cache = False
    has_experts = False
    has_prefill = False
    packs_experts = False
    least_bits = 4
    numbers = "float16"

    def product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, *, accuracy_level: int = 4) -> ir.Value:
        product = super().product(x, matrix, None, accuracy_level=accuracy_level)
        return product if bias is None else self.pen.op("Add", product, bias)

    def mix_experts(
        self, x: ir.Value, choice: ir.Value, weights: ir.Value, experts: Experts, stored: StoredExperts
    ) -> ir.Value:
        numbers = self.pen.stored
        return mix_of_all(self, x, choice, weights, experts, stored, lambda stack, _: numbers(stack.data))
