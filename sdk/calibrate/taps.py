"""Inputs of matrix products as outputs of a graph: what a calibration looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["only_taps", "tap_products"]

_PRODUCTS = ("MatMul", "Gemm")


def tap_products(model: ir.Model, wanted: Callable[[str], bool]) -> Mapping[str, str]:
    """Give a graph in float32 the inputs of its products with the matrices that are wanted as further outputs.

    Returns the output for the name of each such matrix; products of one input share it.
    """
    graph = model.graph
    taps: dict[ir.Value, str] = {}
    outputs: dict[str, str] = {}
    for node in [*graph]:
        if node.op_type not in _PRODUCTS:
            continue
        x, matrix = node.inputs[:2]
        assert x is not None and matrix is not None and matrix.name is not None, "products have two factors"
        name = matrix.name.removesuffix(".transposed")
        if matrix.const_value is not None and wanted(name):
            if x not in taps:
                taps[x] = _tap(graph, x, len(taps))
            outputs[name] = taps[x]
    return outputs


def _tap(graph: ir.Graph, x: ir.Value, number: int) -> str:
    """Add an output with the numbers of `x`, which may be an input or an output already."""
    node = ir.node("Identity", [x], num_outputs=1, name=f"tap_{number}")
    output = node.outputs[0]
    output.name, output.type = f"tap_{number}", ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    graph.outputs.append(output)
    return output.name


def only_taps(model: ir.Model) -> None:
    """Leave out of a graph whatever only its other outputs need."""
    kept = [output for output in model.graph.outputs if (output.name or "").startswith("tap_")]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
