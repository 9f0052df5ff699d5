"""The weights of a graph that we did not build: moved to the bundle's weight file, matrices as the recipe says."""

from __future__ import annotations

import functools
import re
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from skipstone.exporters.graph import (
    MICROSOFT,
    PACKED_PRODUCT,
    StoredMatrix,
    WeightFile,
    packed_product_attributes,
)
from skipstone.quant import Recipe

__all__ = ["store_weights"]

# Axes and shapes are smaller; they stay in the graph, where onnxruntime looks for them when it opens it.
SMALLEST_STORED = 1024
# The modules whose products make queries, keys and values, which the recipe int4 keeps at 8 bits.
_ATTENTION_INPUTS: Final = re.compile(r"/(q_proj|k_proj|v_proj|qkv_proj|query_key_value|c_attn|Wqkv)/")


def store_weights(model: ir.Model, recipe: Recipe, file: WeightFile) -> None:
    """Change the graph so that its weights lie in `file` and its products with matrices are as the recipe says.

    The last product is the recipe's `head`, those that make queries, keys and values are `layers.0.qkv`, all others
    `layers.0.down`. Embeddings are looked up, not multiplied: they stay in float32.
    """
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
    )(model)
    graph = model.graph
    products = [node for node in graph if _has_matrix(node)]
    for node in products:
        role = "layers.0.qkv" if _ATTENTION_INPUTS.search(str(node.name)) else "layers.0.down"
        rule = recipe.for_tensor("head" if node is products[-1] else role)
        if rule.bits < 32:
            (stored,) = file.add_matrices(str(node.name), functools.partial(_matrices, node), rule)
            _replace(graph, node, stored)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
        elif (tensor := value.const_value) is not None:
            is_large = tensor.nbytes >= SMALLEST_STORED
            value.const_value = file.add(name, tensor.numpy) if is_large else ir.tensor(tensor.numpy(), name=name)


def _has_matrix(node: ir.Node) -> bool:
    """Whether a node is a plain product of rows with a stored matrix."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return False
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return False
    weight = node.inputs[1]
    return (
        not node.attributes.get_int("transA", 0)
        and weight is not None
        and weight.const_value is not None
        and len(weight.const_value.shape) == 2
    )


def _matrices(node: ir.Node) -> list[NDArray[np.float32]]:
    """Return the one matrix [N, K] whose rows make the columns of a product's result."""
    assert node.inputs[1] is not None and node.inputs[1].const_value is not None, "the product has a matrix"
    stored = node.inputs[1].const_value.numpy()
    return [np.ascontiguousarray(stored if node.attributes.get_int("transB", 0) else stored.T)]


def _replace(graph: ir.Graph, node: ir.Node, matrix: StoredMatrix) -> None:
    """Put a product with integers in the place of a product with numbers."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    data, zero_points = (_initializer(graph, tensor) for tensor in (matrix.data, matrix.zero_points))
    scales, nodes = _scales(graph, matrix)
    new = ir.node(
        PACKED_PRODUCT,
        inputs=[node.inputs[0], data, scales, zero_points, None, bias],
        attributes=packed_product_attributes(matrix),
        domain=MICROSOFT,
        name=node.name,
    )
    graph.opset_imports[MICROSOFT] = 1
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*nodes, new], node.outputs, new.outputs)


def _scales(graph: ir.Graph, matrix: StoredMatrix) -> tuple[ir.Value | None, list[ir.Node]]:
    """Return the scales of a matrix as float32, and the nodes that make them so."""
    assert matrix.scales is not None, "integers have scales"
    value, nodes, exponent = _initializer(graph, matrix.scales.tensor), [], matrix.scales.exponent
    if matrix.scales.tensor.dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}))
        value = nodes[-1].outputs[0]
    if exponent:
        name = f"two_to_{exponent}"
        if name not in graph.initializers:
            tensor = ir.tensor(np.float32(2.0**exponent), name=name)
            factor = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(()), const_value=tensor)
            graph.register_initializer(factor)
        nodes.append(ir.node("Mul", [value, graph.initializers[name]]))
        value = nodes[-1].outputs[0]
    return value, nodes


def _initializer(graph: ir.Graph, tensor: ir.ExternalTensor | None) -> ir.Value | None:
    """Return a value of the graph for a tensor of the weight file."""
    if tensor is None:
        return None
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
