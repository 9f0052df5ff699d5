"""Sparse graphs with other routers, and with what was learned beside them; weights of the dense model stay where they
are.

What is learned is small and stands in the graphs themselves. Shapes: B batch, T tokens, A active routed experts of
each token, R routed experts, E hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["Learned", "write_trained"]

Floats: TypeAlias = NDArray[np.float32]
Learned: TypeAlias = Mapping[int, Mapping[str, Floats]]
"""By layer and by name, as in `carved_layers.LEARNED`."""
_EXPERTS: Final = ("MoE", "QMoE")
_LAYER: Final = re.compile(r"layers\.(\d+)\.")


def write_trained(source: Path, target: Path, learned: Learned) -> None:
    """Write a sparse graph with what was learned; both files lie in folders with the same weight file."""
    model = ir.load(source)
    graph = model.graph
    for node in [node for node in graph if node.op_type in _EXPERTS]:
        layer = _layer_of(node)
        if layer in learned:
            _LayerGraph(graph, node, layer).take(learned[layer])
    target.write_bytes(ir.to_proto(model).SerializeToString())


def _layer_of(node: ir.Node) -> int:
    names = (value.name or "" for value in node.inputs if value is not None)
    return next(int(match[1]) for name in names if (match := _LAYER.match(name)))


class _LayerGraph:
    """The carved FFN around one operator for experts."""

    def __init__(self, graph: ir.Graph, experts: ir.Node, layer: int) -> None:
        self._graph, self._layer, self._count = graph, layer, 0
        self._outputs = _only_user(experts.outputs[0])  # Reshape to [B, T, A, E]
        self._sum = _only_user(self._outputs.outputs[0])
        while self._sum.op_type != "ReduceSum":
            self._sum = _only_user(self._sum.outputs[0])
        self._added = self._sum
        while self._added.op_type != "Add":
            self._added = _only_user(self._added.outputs[0])
        flat = experts.inputs[1]
        chosen = None if flat is None else _producer(flat).inputs[0]
        assert chosen is not None, "experts are chosen by a Reshape of [B, T, A, R]"
        self._chosen = chosen

    def take(self, tensors: Mapping[str, Floats]) -> None:
        """Put tensors in the place of those that are there; add stand-ins and boosts where there are none."""
        for name, tensor in tensors.items():
            if self._name(name) in self._graph.initializers:
                self._graph.initializers[self._name(name)].const_value = ir.tensor(tensor, name=self._name(name))
            elif name == "expert_rest":
                self._stand_in(tensor)
            else:
                assert name == "expert_boost", "routers are there"
                self._boost(tensor)

    def _stand_in(self, rests: Floats) -> None:
        """Add to what is always active [B, T, E] what stands in for the experts that are left out; rests [R, E]."""
        active = self._op("ReduceSum", self._sum, self._chosen, self._constant("axis", np.array([2])), keepdims=0)
        left_out = self._op("Sub", self._sum, self._constant("one", np.float32(1)), active)
        value = self._op("MatMul", self._sum, left_out, self._constant("expert_rest", rests))
        shared = self._added.inputs[0]
        assert shared is not None, "an Add has two inputs"
        self._added.replace_input_with(0, self._op("Add", self._added, shared, value))

    def _boost(self, boosts: Floats) -> None:
        """Multiply what each expert gives [B, T, A, E] by 1 + its boost [R, 1] times the share that is left out."""
        where, one = self._sum, self._constant("one", np.float32(1))
        active = self._op("Shape", where, self._chosen, start=2, end=3)
        number = self._op("Cast", where, active, to=ir.DataType.FLOAT.value)
        share = self._op("Mul", where, number, self._constant("each", np.float32(1 / len(boosts))))
        left_out = self._op("Sub", where, one, share)
        boost = self._op("MatMul", where, self._chosen, self._constant("expert_boost", boosts))
        gain = self._op("Add", where, one, self._op("Mul", where, boost, left_out))
        given = self._sum.inputs[0]
        assert given is not None, "a sum has something to sum"
        self._sum.replace_input_with(0, self._op("Mul", where, given, gain))

    def _name(self, name: str) -> str:
        return f"layers.{self._layer}.{name}"

    def _constant(self, name: str, array: NDArray[np.generic] | np.generic) -> ir.Value:
        whole = self._name(name if name.startswith("expert_") else f"trained.{name}")
        if whole not in self._graph.initializers:
            self._graph.register_initializer(ir.val(whole, const_value=ir.tensor(np.asarray(array), name=whole)))
        return self._graph.initializers[whole]

    def _op(self, kind: str, before: ir.Node, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """Return the output of a new node before another."""
        self._count += 1
        node = ir.node(kind, inputs, attributes, num_outputs=1, name=self._name(f"trained.{self._count}"))
        node.outputs[0].name = node.name
        self._graph.insert_before(before, node)
        return node.outputs[0]


def _only_user(value: ir.Value) -> ir.Node:
    ((node, _),) = value.uses()
    return node


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, "the value is computed"
    return node
