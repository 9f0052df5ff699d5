"""Sub-models of one model, which lack some channels of its FFNs, read side by side, layer by layer, in float32.

Shapes: S sub-models, T tokens of the window of each, E hidden size, I inner width of a layer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph, LayerGraphs, batches

__all__ = ["Masks", "mask_channels", "states_behind"]

Floats: TypeAlias = NDArray[np.float32]
Masks: TypeAlias = SequenceOf[Floats]
"""For each layer which channels are there, 1 or 0: [S, I]."""
_MASK: Final = "ffn_mask"
_PRODUCTS: Final = ("MatMul", "Gemm")


def states_behind(
    graphs: LayerGraphs,
    token_ids: NDArray[np.int64],
    masks: Masks,
    look: Callable[[int, LayerGraph, Floats, Mapping[str, Floats]], None] = lambda *arguments: None,
    *,
    tap: bool = False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    """Return the states [S, T, E] behind the last layer, of sub-models that read a window [T] each.

    At each layer `look` gets its number, its graph, the states that it reads, and its mask as a graph takes it; with
    `tap` that graph gives the inputs of the matrix behind the channels.
    """
    with graphs.embedding() as embedding:
        states = np.concatenate([embedding.embed(token_ids[batch]) for batch in batches(token_ids)])
    for layer in range(graphs.num_layers):
        is_down = partial(operator.eq, f"layers.{layer}.down")
        with graphs.layer(layer, tap=is_down if tap else _none, change=partial(mask_channels, is_down)) as graph:
            given = {_MASK: masks[layer][:, None]}
            look(layer, graph, states, given)
            states = np.concatenate(
                [graph.states(states[batch], {_MASK: given[_MASK][batch]}) for batch in batches(states)]
            )
        on_progress((layer + 1) / graphs.num_layers)
    return states


def _none(name: str) -> bool:
    return False


def mask_channels(wanted: Callable[[str], bool], model: ir.Model) -> None:
    """Give a graph an input ffn_mask [B, 1, I], by which it multiplies what the matrix that is wanted reads."""
    for node in [*model.graph]:
        if node.op_type in _PRODUCTS:
            x, matrix = node.inputs[:2]
            assert x is not None and matrix is not None and matrix.name is not None, "products have two factors"
            if wanted(matrix.name.removesuffix(".transposed")):
                _insert(model.graph, node, x)


def _insert(graph: ir.Graph, product: ir.Node, x: ir.Value) -> None:
    mask = ir.val(_MASK, ir.DataType.FLOAT, ["B", 1, "I"])
    graph.inputs.append(mask)
    masked = ir.node("Mul", [x, mask], num_outputs=1, name="mask_channels")
    graph.insert_before(product, masked)
    product.replace_input_with(0, masked.outputs[0])
