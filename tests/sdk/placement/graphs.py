"""Small graphs, written by hand, for questions about one operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int, data_type: int = FLOAT) -> TensorProto:
    """Return a weight of zeros."""
    return numpy_helper.from_array(np.zeros(shape, helper.tensor_dtype_to_np_dtype(data_type)), name)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: dict[str, Sequence[int | str]],
    *,
    weights: Sequence[TensorProto] = (),
    data_type: int = FLOAT,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
) -> ModelProto:
    """Return a model of the nodes, whose inputs have the shapes."""
    graph: GraphProto = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, data_type, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, data_type, None) for name in outputs],
        list(weights),
    )
    domains = sorted({node.domain for node in nodes if node.domain})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def saved(model: ModelProto, folder: Path) -> Path:
    """Write a model to a folder and return its file."""
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"
