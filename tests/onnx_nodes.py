"""One node of a graph, run by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skipstone.quant import QuantizedMatrix


def run_node(
    op: str, feed: NDArray[Any], tensors: dict[str, NDArray[Any]], inputs: list[str], **attributes: int
) -> NDArray[np.float32]:
    """The output of one com.microsoft node; `x` among the inputs is fed, the others are constants."""
    node = helper.make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(feed.dtype), feed.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"x": feed})[0]
    return output


def tensors_of(matrix: QuantizedMatrix) -> dict[str, NDArray[Any]]:
    zero_points = {} if matrix.zero_points is None else {"zero_points": matrix.zero_points}
    return {"data": matrix.data, "scales": matrix.scales, **zero_points}
