"""A graph as the check sees it: its nodes, what is constant in it, types and work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from skipstone.placement.shapes import ValueType, infer_types, types_by_runtime, with_sizes
from skipstone.placement.work import work_of

__all__ = ["CheckedGraph", "sizes_of"]

DEQUANTIZE: Final = "DequantizeLinear"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedGraph:
    """`nodes` in the order of the file, those of subgraphs after the node that holds them.

    `types` are as the graph has them, with sizes by name where they are not fixed. `constants` are weights and what is
    computed of them alone, `weights_outside` those that stand in another file. `folded` are the places of nodes that
    are computed once when the graph is loaded. `inner` are the places of those in subgraphs. `work` has the
    multiply-adds of each node at the sizes that were asked for, None where they are not known.
    """

    model: ModelProto
    nodes: tuple[NodeProto, ...]
    types: Mapping[str, ValueType]
    constants: frozenset[str]
    weights_outside: frozenset[str]
    folded: frozenset[int]
    inner: frozenset[int]
    work: tuple[int | None, ...]

    @classmethod
    def of(cls, model: ModelProto, *, numbers: Mapping[str, int], context: int) -> Self:
        """Return what is known of a graph; its work is counted with the `numbers` for sizes that have a name."""
        walked = tuple(_walk(model.graph))
        nodes = tuple(node for node, _ in walked)
        constants, folded = _constants(model.graph, nodes)
        work = _work(with_sizes(model, numbers), nodes, context)
        return cls(
            model=model,
            nodes=nodes,
            types=infer_types(model),
            constants=constants,
            weights_outside=frozenset(
                weight.name for weight in model.graph.initializer if weight.data_location == TensorProto.EXTERNAL
            ),
            folded=folded,
            inner=frozenset(place for place, (_, inner) in enumerate(walked) if inner),
            work=work,
        )

    def is_dequantized(self, name: str) -> bool:
        """Return whether a value comes out of DequantizeLinear: part of a node that is quantized as a whole."""
        return any(node.op_type == DEQUANTIZE and name in node.output for node in self.nodes)


def sizes_of(model: ModelProto, *, rows: int, context: int) -> dict[str, int]:
    """Return numbers for sizes by their names, as our graphs and those of optimum write them.

    One text, of which `rows` tokens are new in a cache that holds `context` tokens with them.
    """
    inputs = {value.name for value in model.graph.input}
    ours = {"B": 1, "W": 1, "T": rows, "A": rows, "R": rows, "S": context, "C": context}
    past = context - rows
    ours["P"] = 1 if "extra_ids" in inputs else past if "input_ids" in inputs else context
    traced = {"batch_size": 1, "sequence_length": rows, "past_sequence_length": past, "total_sequence_length": context}
    sums = ("past_sequence_length + sequence_length", "past_sequence_length + 1", "past_sequence_length+1")
    return ours | traced | dict.fromkeys(sums, context)


def _walk(graph: GraphProto, *, inner: bool = False) -> Iterator[tuple[NodeProto, bool]]:
    for node in graph.node:
        yield node, inner
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _walk(attribute.g, inner=True)


def _work(fixed: ModelProto, nodes: tuple[NodeProto, ...], context: int) -> tuple[int | None, ...]:
    """Return the multiply-adds of nodes in a graph with fixed sizes; onnxruntime helps where onnx infers none."""
    types = infer_types(fixed)
    work = tuple(work_of(node, types, context=context) for node in nodes)
    if None not in work:
        return work
    types |= {name: known for name, known in types_by_runtime(fixed).items() if _is_known(known)}
    return tuple(work_of(node, types, context=context) for node in nodes)


def _is_known(value: ValueType) -> bool:
    return value[1] is not None and all(isinstance(size, int) for size in value[1])


def _constants(graph: GraphProto, nodes: tuple[NodeProto, ...]) -> tuple[frozenset[str], frozenset[int]]:
    """Return what is constant, and the nodes that onnxruntime computes when it loads a graph.

    It keeps DequantizeLinear, so that providers see that weights are quantized.
    """
    inputs = {value.name for value in graph.input}
    constants = {weight.name for weight in graph.initializer if weight.name not in inputs}
    folded = set()
    for place, node in enumerate(nodes):
        known = all(name in constants for name in node.input if name)
        if known and node.op_type != DEQUANTIZE and not node.op_type.startswith("Random"):
            constants.update(node.output)
            folded.add(place)
    return frozenset(constants), frozenset(folded)
