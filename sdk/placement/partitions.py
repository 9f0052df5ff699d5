"""How many pieces a graph falls into, by onnxruntime's own estimate."""

from __future__ import annotations

from collections.abc import Collection

from onnx import GraphProto, NodeProto

__all__ = ["num_partitions"]


class _Taken:
    """What the mobile checker of onnxruntime asks: whether a node is taken."""

    def __init__(self, outputs: Collection[str]) -> None:
        self.outputs = outputs

    def is_op_supported(self, node: NodeProto) -> bool:
        return any(name in self.outputs for name in node.output)


def num_partitions(graph: GraphProto, taken: Collection[str]) -> int:
    """Return into how many pieces the nodes fall that a provider takes, given the names of their outputs.

    Each piece is handed over and back once a call. Source: `onnxruntime.tools.mobile_helpers.usability_checker`.
    """
    from onnxruntime.tools.mobile_helpers.usability_checker import check_partitioning

    return int(check_partitioning(graph, _Taken(taken), require_fixed_input_sizes=False).num_partitions)
