"""A mixture of experts as ONNX nodes: a router chooses a few small FFNs for each token, and their outputs are mixed.

Shapes: B batch, T tokens, E hidden size, X experts, A active ones of a token, I inner size of an expert. Integers come
in whole blocks, so with them E and I are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from skipstone.exporters.families import Experts
from skipstone.exporters.graph.expert_rows import integers
from skipstone.exporters.graph.expert_store import ExpertStore, StoredExperts, expert_rule
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.pen import GraphPen
from skipstone.quant import Matrix, TensorRecipe

__all__ = ["EXACT_BLOCKS", "mixture"]

# The largest blocks, by bits, with which an expert rounds a row alike, alone or among others (seen with AVX-512 VNNI).
EXACT_BLOCKS: Final[Mapping[int, int]] = {4: 32, 8: 64}


def mixture(
    kernels: Kernels,
    x: ir.Value,
    router_logits: ir.Value,
    experts: Experts,
    *,
    name: str,
    rule: TensorRecipe,
    gate_up: Callable[[int], Matrix],
    down: Callable[[int], Matrix],
) -> ir.Value:
    """[B, T, E] and logits [B, T, X] to [B, T, E]: the mix of down(silu(gate(x)) * up(x)) of the active experts.

    `gate_up` and `down` give the matrices [2I, E] (gate, then up) and [E, I] of one expert; they are stored by
    `expert_rule`, under `name`. Of experts with equal logits the first is chosen.
    Other tokens of a call change a token's result by rounding only: an expert multiplies all its rows at once, and
    the last of an odd number in another kernel. In EXACT_BLOCKS nothing changes.
    Memory: gate_up of all experts. Raises: UnsupportedModel for integers that do not fit together.
    """
    pen, first_gate_up, first_down = kernels.pen, gate_up(0), down(0)
    form = expert_rule(rule, first_gate_up, first_down, least_bits=pen.file.least_bits if kernels.packs_experts else 32)
    store = ExpertStore(pen, rule, form, experts.num_experts)
    hidden_size, inner_size = first_down.shape
    width, inner = store.padded(hidden_size), store.padded(inner_size)
    alternating = np.arange(2 * inner_size).reshape(2, -1).T.ravel()
    gate_ups = store.add(f"{name}.gate_up", first_gate_up, gate_up, alternating, (2 * inner, width))
    downs = store.add(f"{name}.down", first_down, down, np.arange(hidden_size), (width, inner))
    choice, weights = _route(pen, router_logits, experts)
    if width > hidden_size:
        x = pen.op("Pad", x, integers(pen, 0, 0, 0, 0, 0, width - hidden_size))
    stored = StoredExperts(
        gate_up=gate_ups,
        down=downs,
        form=store.form,
        width=width,
        accuracy_level=0 if rule.bits == 32 else 4,  # integers in an fp32 bundle: rows stay in float32
    )
    mixed = kernels.mix_experts(x, choice, weights, experts, stored)
    if width == hidden_size:
        return mixed
    return pen.op("Slice", mixed, integers(pen, 0), integers(pen, hidden_size), integers(pen, 2))


def _route(pen: GraphPen, logits: ir.Value, experts: Experts) -> tuple[ir.Value, ir.Value]:
    """Return which experts are active, int64 [B, T, A], and their weights [B, T, A]."""
    count = integers(pen, experts.num_active)
    if experts.normalized:  # a softmax over the active ones is that over all, divided by their sum
        largest, choice = pen.op_outputs("TopK", logits, count, count=2, axis=-1)
        return choice, pen.op("Softmax", largest, axis=-1)
    weights, choice = pen.op_outputs("TopK", pen.op("Softmax", logits, axis=-1), count, count=2, axis=-1)
    return choice, weights
