"""Sizes of every value in a graph, by the shape inference of onnx.

Operators that onnx does not know are replaced by standard ones whose output has the same shape, in a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

import onnx
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, shape_inference

__all__ = ["Shape", "ValueType", "attributes_of", "infer_types", "operator_of", "types_by_runtime", "with_sizes"]

Shape: TypeAlias = tuple[int | str | None, ...]
"""A number, the name of a size that is not fixed, or None where nothing is known."""
ValueType: TypeAlias = tuple[int, Shape | None]
"""Number of the element type in ONNX, and the shape; None where not even the number of dimensions is known."""
StandIn: TypeAlias = Callable[["_Copy", NodeProto], list[NodeProto]]
LARGE_BYTES: Final = 1 << 16
SMALL_BYTES: Final = 1 << 10


def operator_of(node: NodeProto) -> str:
    """Return the operator of a node as rules write it: `MatMul`, `com.microsoft:QuickGelu`."""
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name, subgraphs left out."""
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return {one.name: helper.get_attribute_value(one) for one in node.attribute if one.type not in kinds}


def with_sizes(model: ModelProto, numbers: Mapping[str, int]) -> ModelProto:
    """Return a copy of a model in which sizes of inputs that have a name are numbers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if (name := size.dim_param) in numbers:
                size.dim_value = numbers[name]
    del copy.graph.value_info[:]
    for value in copy.graph.output:  # what is declared with names would stay
        value.type.tensor_type.ClearField("shape")
    return copy


def infer_types(model: ModelProto) -> dict[str, ValueType]:
    """Return types and shapes by the name of the value, weights too; what cannot be inferred is not in it."""
    inferred = shape_inference.infer_shapes(_Copy(model).model, check_type=False, strict_mode=False, data_prop=True)
    return dict(_types_in(inferred.graph)) | dict(_types_in(model.graph, inferred=False))


def types_by_runtime(model: ModelProto) -> dict[str, ValueType]:
    """Return types and shapes of what is left when onnxruntime has computed ahead what is constant in a graph.

    With fixed sizes that is all that a traced graph computes of its shapes. Large weights become inputs, so nothing of
    their size is read. Nothing is found where onnxruntime does not open the graph.
    """
    light = ModelProto()
    light.CopyFrom(model)
    graph = light.graph
    for weight in [one for one in graph.initializer if one.external_data or len(one.raw_data) > SMALL_BYTES]:
        graph.initializer.remove(weight)
        graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, tuple(weight.dims)))
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        options.log_severity_level = 4
        try:
            ort.InferenceSession(light.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's errors have no base of their own
            return {}
        return infer_types(onnx.load(options.optimized_model_filepath, load_external_data=False))


def _types_in(graph: GraphProto, *, inferred: bool = True) -> Iterator[tuple[str, ValueType]]:
    for value in (*graph.value_info, *graph.output, *graph.input) if inferred else ():
        if value.type.HasField("tensor_type"):
            tensor = value.type.tensor_type
            sizes = tensor.shape.dim if tensor.HasField("shape") else None
            shape = None if sizes is None else tuple(_size(size) for size in sizes)
            yield value.name, (tensor.elem_type, shape)
    for weight in graph.initializer:
        yield weight.name, (weight.data_type, tuple(weight.dims))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _types_in(attribute.g, inferred=inferred)


def _size(size: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if size.HasField("dim_value"):
        return int(size.dim_value)
    return str(size.dim_param) or None


class _Copy:
    """A model without large weights, whose operators onnx all knows as far as there are stand-ins."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        known = shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True).graph
        self.shapes = {name: shape for name, (_, shape) in _types_in(known)}
        large = [weight for weight in graph.initializer if len(weight.raw_data) > LARGE_BYTES]
        for weight in large:
            graph.initializer.remove(weight)
            self.value(weight.name, weight.data_type, tuple(weight.dims))
        nodes = [new for node in graph.node for new in self._stand_in(node)]
        del graph.node[:]
        graph.node.extend(nodes)

    def value(self, name: str, data_type: int, shape: Shape) -> str:
        """Add an input of the model, of which only the shape counts, and return its name."""
        if all(value.name != name for value in self.model.graph.input):
            self.model.graph.input.append(helper.make_tensor_value_info(name, data_type, shape))
        return name

    def _stand_in(self, node: NodeProto) -> list[NodeProto]:
        make = STAND_INS.get(operator_of(node))
        return [node] if make is None else make(self, node)


def _same(*pairs: tuple[int, int]) -> StandIn:
    """Return how to stand in for a node whose outputs have shapes of inputs, by pairs of output and input."""

    def make(copy: _Copy, node: NodeProto) -> list[NodeProto]:
        inside = ((into, of) for into, of in pairs if into < len(node.output) and of < len(node.input))
        return [
            helper.make_node("Identity", [node.input[of]], [node.output[into]])
            for into, of in inside
            if node.output[into] and node.input[of]
        ]

    return make


def _product(copy: _Copy, node: NodeProto, num_outputs: int | str | None) -> NodeProto:
    weight = copy.value(f"{node.output[0]}.stand_in", TensorProto.FLOAT, (None, num_outputs))
    return helper.make_node("MatMul", [node.input[0], weight], [node.output[0]])


def _matmul_n_bits(copy: _Copy, node: NodeProto) -> list[NodeProto]:
    return [_product(copy, node, attributes_of(node)["N"])]


def _matmul_like(copy: _Copy, node: NodeProto) -> list[NodeProto]:
    shape = copy.shapes.get(node.input[1]) or (None,)
    last = -2 if attributes_of(node).get("transB") and len(shape) > 1 else -1
    return [_product(copy, node, shape[last])]


def _group_query_attention(copy: _Copy, node: NodeProto) -> list[NodeProto]:
    """The query may hold keys and values too; the size of a head is that of the cache."""
    caches = _same((1, 3), (2, 4))(copy, node)
    if len(node.input) > 1 and node.input[1]:
        return [*_same((0, 0))(copy, node), *caches]
    past = (copy.shapes.get(node.input[3]) if len(node.input) > 3 else None) or (None,)
    heads, head_size = attributes_of(node)["num_heads"], past[-1]
    return [_product(copy, node, heads * head_size if isinstance(head_size, int) else None), *caches]


def _gather_blocks(copy: _Copy, node: NodeProto) -> list[NodeProto]:
    """Rows of a matrix in blocks; packed integers are fewer than its columns, scales say how many columns."""
    own = attributes_of(node)
    data, scales = list(copy.shapes.get(node.input[0]) or ()), copy.shapes.get(node.input[2]) or ()
    if not data or len(scales) != len(data):
        return [node]
    axis = own.get("quantize_axis", 1)
    blocks = scales[axis]
    data[axis] = blocks * own.get("block_size", 128) if isinstance(blocks, int) else None
    table = copy.value(f"{node.output[0]}.stand_in", TensorProto.FLOAT, tuple(data))
    gather = helper.make_node("Gather", [table, node.input[1]], [node.output[0]], axis=own.get("gather_axis", 0))
    return [gather]


_MS: Final = "com.microsoft:"
STAND_INS: Final[Mapping[str, StandIn]] = {
    "SimplifiedLayerNormalization": _same((0, 0)),
    **{
        _MS + name: _same((0, 0), (3, 0))
        for name in ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")
    },
    **{
        _MS + name: _same((0, 0))
        for name in (
            "QuickGelu",
            "FastGelu",
            "BiasGelu",
            "Gelu",
            "MoE",
            "QMoE",
            "RotaryEmbedding",
            "MultiHeadAttention",
            "QuantizeLinear",
            "DequantizeLinear",
        )
    },
    **{
        _MS + name: _matmul_like
        for name in ("FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "GemmFastGelu")
    },
    _MS + "MatMulNBits": _matmul_n_bits,
    _MS + "GroupQueryAttention": _group_query_attention,
    _MS + "GatherBlockQuantized": _gather_blocks,
}
