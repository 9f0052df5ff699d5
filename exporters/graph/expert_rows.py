"""Tokens as rows of single experts, and back: for an operator that gives each row to one expert.

Shapes: B batch, T tokens, E hidden size, X experts, A active ones of a token.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from skipstone.exporters.families import Experts
from skipstone.exporters.graph.pen import GraphPen

__all__ = ["fan_out", "integers", "mix"]


def fan_out(pen: GraphPen, x: ir.Value, choice: ir.Value, experts: Experts, width: int) -> tuple[ir.Value, ir.Value]:
    """Return a row for each active expert of each token, [B, T * A, E], and logits [B * T * A, X] that choose it alone.

    Given a token with all its experts, the operator sums them in an order that depends on the other tokens. So it gets
    one expert per row, and we sum; the copies of x cost nothing beside the weights.
    """
    copies = pen.op("Tile", x, integers(pen, 1, 1, experts.num_active))
    chosen = one_hot(pen, choice, experts.num_experts)
    return (
        pen.op("Reshape", copies, integers(pen, 0, -1, width)),
        pen.op("Reshape", chosen, integers(pen, -1, experts.num_experts)),
    )


def one_hot(pen: GraphPen, choice: ir.Value, count: int) -> ir.Value:
    """[...] to [..., X]: 1 for the one of X that is chosen, 0 for all others."""
    off_on = pen.constant("off_on", np.array([0, 1], np.float32))
    return pen.op("OneHot", choice, integers(pen, count), off_on, axis=-1)


def mix(pen: GraphPen, outputs: ir.Value, weights: ir.Value, experts: Experts, width: int) -> ir.Value:
    """[B, T * A, E] and weights [B, T, A] to their weighted sums [B, T, E]."""
    axis = integers(pen, 2)
    apart = pen.op("Reshape", outputs, integers(pen, 0, -1, experts.num_active, width))
    return pen.op("Squeeze", pen.op("MatMul", pen.op("Unsqueeze", weights, axis), apart), axis)


def integers(pen: GraphPen, *values: int) -> ir.Value:
    """Return a small vector of integers that is stored inside the graph."""
    return pen.constant(f"integers_{'_'.join(map(str, values))}", np.array(values, np.int64))
