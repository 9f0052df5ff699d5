"""What a graph file holds, read without running or building anything: operators, inputs, outputs, files of weights.

Fields and their numbers are those of onnx.proto3 (ONNX IR version 10). The libraries that read whole graphs take longer
to import than a model takes to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from skipstone.errors import BundleError

__all__ = ["Argument", "GraphOutline"]

# Larger graph files are refused: ours have less than 3 MB, as weights lie beside them.
MOST_BYTES: Final = 32 << 20
# Numbers of fields, by message.
MODEL_GRAPH, MODEL_FUNCTION = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_GRAPHS: Final = (6, 11)
TENSOR_EXTERNAL, ENTRY_KEY, ENTRY_VALUE = 13, 1, 2
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE = 1, 2, 1, 1, 2
SHAPE_SIZE, SIZE_NUMBER, SIZE_NAME = 1, 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# The byte before a graph in an attribute: the number of its field, and that bytes follow.
KEYS_OF_GRAPHS: Final = tuple(bytes([number << 3 | 2]) for number in ATTRIBUTE_GRAPHS)
Field: TypeAlias = tuple[int, int, int]
"""The number of a field, and where its bytes begin and end; the field's value and -1 where it is a number."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An input or output of a graph: its name, the number of its type, and its sizes, a string where any will do."""

    name: str
    element_type: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOutline:
    """What a graph is made of. `operators` are written `domain:Name`, without the domain of the ONNX standard.

    `weights` are the files that tensors lie in, with the bytes that they need there. `is_nested` says whether there are
    functions, or graphs inside of nodes, or sparse tensors.
    """

    operators: frozenset[str]
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    weights: dict[str, int]
    is_nested: bool

    @classmethod
    def read(cls, file: Path) -> GraphOutline:
        """Return the outline of a graph file. Cost: a few milliseconds for a thousand nodes. Raises: BundleError."""
        if file.stat().st_size > MOST_BYTES:
            raise BundleError(f"{file.name} is no graph of a bundle: it has more than {MOST_BYTES >> 20} MiB")
        try:
            return _outline(file.read_bytes())
        except (IndexError, ValueError) as error:
            raise BundleError(f"{file.name} is no ONNX graph: {error}") from error


def _outline(data: bytes) -> GraphOutline:
    fields = _fields(data, 0, len(data))
    graphs = [(start, end) for number, start, end in fields if number == MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs")
    is_nested = any(number == MODEL_FUNCTION for number, _, _ in fields)
    operators, weights = set[tuple[bytes, bytes]](), dict[str, int]()
    arguments: dict[int, list[Argument]] = {GRAPH_INPUT: [], GRAPH_OUTPUT: []}
    for number, start, end in _fields(data, *graphs[0]):
        if number == GRAPH_NODE:
            operator, nested = _node(data, start, end)
            operators.add(operator)
            is_nested |= nested
        elif number == GRAPH_INITIALIZER:
            _add_weights(weights, data, start, end)
        elif number in arguments:
            arguments[number].append(_argument(data, start, end))
        is_nested |= number == GRAPH_SPARSE
    return GraphOutline(
        operators=frozenset(_operator_name(*operator) for operator in operators),
        inputs=tuple(arguments[GRAPH_INPUT]),
        outputs=tuple(arguments[GRAPH_OUTPUT]),
        weights=weights,
        is_nested=is_nested,
    )


def _node(data: bytes, start: int, end: int) -> tuple[tuple[bytes, bytes], bool]:
    """Return the domain and operator of a node, and whether an attribute of it is a graph."""
    operator = domain = b""
    nested = False
    for number, begin, stop in _fields(data, start, end):
        if number == NODE_OPERATOR:
            operator = data[begin:stop]
        elif number == NODE_DOMAIN:
            domain = data[begin:stop]
        elif number == NODE_ATTRIBUTE and any(data.find(key, begin, stop) >= 0 for key in KEYS_OF_GRAPHS):
            nested |= any(field in ATTRIBUTE_GRAPHS for field, _, _ in _fields(data, begin, stop))
    return (domain, operator), nested


def _operator_name(domain: bytes, operator: bytes) -> str:
    name = operator.decode("utf-8")
    return name if domain in (b"", b"ai.onnx") else f"{domain.decode('utf-8')}:{name}"


def _add_weights(weights: dict[str, int], data: bytes, start: int, end: int) -> None:
    """Add the file in which a tensor lies, and how many bytes it must have for it."""
    place: dict[bytes, bytes] = {}
    for number, begin, stop in _fields(data, start, end):
        if number == TENSOR_EXTERNAL:
            entry = _last(data, begin, stop)
            place[entry.get(ENTRY_KEY, b"")] = entry.get(ENTRY_VALUE, b"")
    if place:
        last = _number(place.get(b"offset", b"0")) + _number(place.get(b"length", b"0"))
        name = place.get(b"location", b"").decode("utf-8")
        weights[name] = max(last, weights.get(name, 0))


def _argument(data: bytes, start: int, end: int) -> Argument:
    value = _last(data, start, end)
    kinds = _last(value.get(VALUE_TYPE, b""))
    tensor = kinds.get(TYPE_TENSOR, b"")
    element, shape = 0, list[int | str]()
    for number, begin, stop in _fields(tensor, 0, len(tensor)):
        if number == TENSOR_ELEMENT and stop < 0:
            element = begin
        elif number == TENSOR_SHAPE and stop >= 0:
            sizes = [(first, last) for size, first, last in _fields(tensor, begin, stop) if size == SHAPE_SIZE]
            shape = [_size(tensor, *size) for size in sizes]
    return Argument(value.get(VALUE_NAME, b"").decode("utf-8"), element, tuple(shape))


def _size(data: bytes, start: int, end: int) -> int | str:
    for number, begin, stop in _fields(data, start, end):
        if number == SIZE_NUMBER and stop < 0:
            return begin
        if number == SIZE_NAME and stop >= 0:
            return data[begin:stop].decode("utf-8")
    return ""


def _last(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Return the fields of a message that hold bytes, by their numbers; the last one counts."""
    fields = _fields(data, start, len(data) if end is None else end)
    return {number: data[begin:stop] for number, begin, stop in fields if stop >= 0}


def _fields(data: bytes, place: int, end: int) -> list[Field]:
    """Return the fields of a message that lies in `data` from `place` to `end`."""
    fields = list[Field]()
    while place < end:
        key = data[place]
        place += 1
        if key >= 128:
            key, place = _varint(data, place - 1)
        kind = key & 7
        if kind in (BYTES, VARINT):
            value = data[place]
            place += 1
            if value >= 128:
                value, place = _varint(data, place - 1)
            if kind == VARINT:
                fields.append((key >> 3, value, -1))
                continue
            fields.append((key >> 3, place, place + value))
            place += value
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
    if place > end:
        raise ValueError("a field is longer than what holds it")
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _number(digits: bytes) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise ValueError(f"an offset is no whole number: {digits[:40]!r}")
    return int(digits)
