"""A mixture where all experts compute all tokens, of standard operators: for targets that run no single expert.

Shapes: B batch, T tokens, E hidden size, X experts, I inner size of an expert, A active experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from skipstone.exporters.families import Experts
from skipstone.exporters.graph.expert_rows import integers, one_hot
from skipstone.exporters.graph.expert_store import ExpertStack, StoredExperts
from skipstone.exporters.graph.kernels import Kernels
from skipstone.quant import TensorRecipe

__all__ = ["mix_of_all"]

Numbers: TypeAlias = Callable[[ExpertStack, TensorRecipe], ir.Value]
"""The stored matrices of all experts, and their form, to numbers [X, N, K]."""


def mix_of_all(
    kernels: Kernels,
    x: ir.Value,
    choice: ir.Value,
    weights: ir.Value,
    experts: Experts,
    stored: StoredExperts,
    numbers: Numbers,
) -> ir.Value:
    """As `Kernels.mix_experts`: experts that were not chosen count for nothing. Cost: X / A times the work."""
    pen, axis = kernels.pen, integers(kernels.pen, 2)
    shares = pen.op(
        "MatMul", pen.op("Unsqueeze", weights, axis), one_hot(pen, choice, experts.num_experts)
    )  # [B, T, 1, X]
    rows = pen.op("Reshape", x, integers(pen, 1, -1, stored.width))

    def by_expert(x: ir.Value, stack: ExpertStack) -> ir.Value:
        """Multiply rows [1 or X, R, K] by the matrix of each expert: [X, R, N]."""
        return pen.op("MatMul", x, pen.op("Transpose", numbers(stack, stored.form), perm=[0, 2, 1]))

    inner = by_expert(rows, stored.gate_up)  # [X, B * T, 2 * I]
    pairs = pen.op("Reshape", inner, integers(pen, 0, 0, -1, 2))
    gate, up = (pen.op("Gather", pairs, pen.constant(f"half_{half}", np.array(half)), axis=-1) for half in (0, 1))
    outputs = by_expert(pen.op("Mul", kernels.activate("silu", gate), up), stored.down)
    by_row = pen.op("Transpose", outputs, perm=[1, 0, 2])  # [B * T, X, E]
    mixed = pen.op("MatMul", pen.op("Reshape", shares, integers(pen, -1, 1, experts.num_experts)), by_row)
    return pen.op("Reshape", mixed, pen.op("Shape", x))
