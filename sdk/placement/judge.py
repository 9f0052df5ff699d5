"""Whether a provider takes a node, by its table; and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from onnx import NodeProto, TensorProto, helper, numpy_helper

from skipstone.placement.graph import CheckedGraph
from skipstone.placement.rules import Conditions, Rules
from skipstone.placement.shapes import attributes_of, operator_of

__all__ = ["DYNAMIC", "OUTSIDE", "WRONG_TYPE", "reason_against"]

DYNAMIC: Final = "dynamic shapes"
OUTSIDE: Final = "its weights stand in another file"
WRONG_TYPE: Final = " input"


def reason_against(node: NodeProto, graph: CheckedGraph, rules: Rules) -> str | None:
    """Return why the provider leaves a node to the CPU; None where the table says that it takes it."""
    operator = operator_of(node)
    alternatives = rules.operators.get(operator)
    if alternatives is None:
        return f"{operator} is not {'an operator' if rules.complete else 'in the table'} of {rules.title}"
    against = min((list(_reasons(node, graph, conditions)) for conditions in alternatives), key=len)
    return against[0] if against else None


def _reasons(node: NodeProto, graph: CheckedGraph, conditions: Conditions) -> Iterator[str]:
    """Yield what stands against a node, what an export cannot change first."""
    if conditions.refused is not None:
        yield conditions.refused
    yield from _wrong_types(node, graph, conditions)
    own = attributes_of(node)
    for name, allowed in conditions.attributes.items():
        if name in own and own[name] not in tuple(allowed):
            yield f"{name} is {own[name]}"
    yield from _wrong_ranks(node, graph, conditions)
    for place in conditions.constant:
        if place < len(node.input) and node.input[place] and not _is_constant(node, place, graph):
            yield f"input {place} is no constant"
    if conditions.even and len(set(_lengths(node, graph))) > 1:
        yield "pieces of several lengths"
    if conditions.embedded and any(name in graph.weights_outside for name in node.input):
        yield OUTSIDE
    if conditions.fixed and not all(_is_fixed(name, graph) for name in node.input if name):
        yield DYNAMIC


def _wrong_types(node: NodeProto, graph: CheckedGraph, conditions: Conditions) -> Iterator[str]:
    allowed = dict(conditions.types_of) | ({"0": conditions.types} if conditions.types is not None else {})
    for place, names in allowed.items():
        if int(place) >= len(node.input) or not node.input[int(place)]:
            continue
        number = graph.types.get(node.input[int(place)], (TensorProto.UNDEFINED, None))[0]
        if number and (found := type_name(number)) not in names:
            yield f"{found}{WRONG_TYPE}"


def _wrong_ranks(node: NodeProto, graph: CheckedGraph, conditions: Conditions) -> Iterator[str]:
    for place, name in enumerate(node.input):
        shape = graph.types.get(name, (0, None))[1]
        if shape is None:
            continue
        allowed = conditions.ranks.get(str(place))
        if allowed is not None and len(shape) not in allowed:
            yield f"input {place} has {len(shape)} dimensions"
        elif conditions.most_rank is not None and len(shape) > conditions.most_rank:
            yield f"more than {conditions.most_rank} dimensions"


def _is_constant(node: NodeProto, place: int, graph: CheckedGraph) -> bool:
    """A dequantized weight is constant to a provider that takes DequantizeLinear, the product and the rest as one."""
    name = node.input[place]
    if name in graph.constants:
        return True
    maker = next((other for other in graph.nodes if name in other.output), None)
    whole = maker is not None and maker.op_type == "DequantizeLinear" and graph.is_dequantized(node.input[0])
    return whole and maker is not None and maker.input[0] in graph.constants


def _lengths(node: NodeProto, graph: CheckedGraph) -> list[int]:
    """Return the lengths that a node splits into, where they are stored; else none."""
    name = node.input[1] if len(node.input) > 1 else ""
    stored = [weight for weight in graph.model.graph.initializer if weight.name == name]
    return [int(length) for weight in stored for length in numpy_helper.to_array(weight).ravel()]


def _is_fixed(name: str, graph: CheckedGraph) -> bool:
    if name in graph.constants:
        return True
    shape = graph.types.get(name, (0, None))[1]
    return shape is not None and all(isinstance(size, int) for size in shape)


def type_name(number: int) -> str:
    """Return the name of an element type: float, float16, int64, uint4."""
    return helper.tensor_dtype_to_string(number).removeprefix("TensorProto.").lower()
