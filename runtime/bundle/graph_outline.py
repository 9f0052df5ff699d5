"""What a graph file holds, read without running or building anything: operators, inputs, outputs, files of weights.

Fields and their numbers are those of onnx.proto3 (ONNX IR version 10). The libraries that read whole graphs take longer
to import than a model takes to load.
"""

from __future__ import annotations

from collections.abc import Iterator
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

Field: TypeAlias = "tuple[int, int | bytes]"


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


def _outline(model: bytes) -> GraphOutline:
    operators, weights = set[str](), dict[str, int]()
    inputs, outputs = list[Argument](), list[Argument]()
    graphs = list[bytes]()
    is_nested = False
    for number, value in _fields(model):
        if number == MODEL_GRAPH:
            graphs.append(_message(value))
        is_nested |= number == MODEL_FUNCTION
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs")
    for number, value in _fields(graphs[0]):
        if number == GRAPH_NODE:
            operator, nested = _node(_message(value))
            operators.add(operator)
            is_nested |= nested
        elif number == GRAPH_INITIALIZER:
            _add_weights(weights, _message(value))
        elif number in (GRAPH_INPUT, GRAPH_OUTPUT):
            (inputs if number == GRAPH_INPUT else outputs).append(_argument(_message(value)))
        is_nested |= number == GRAPH_SPARSE
    return GraphOutline(
        operators=frozenset(operators),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights=weights,
        is_nested=is_nested,
    )


def _node(node: bytes) -> tuple[str, bool]:
    """Return the operator of a node, and whether an attribute of it is a graph."""
    operator = domain = ""
    nested = False
    for number, value in _fields(node):
        if number == NODE_OPERATOR:
            operator = _text(value)
        elif number == NODE_DOMAIN:
            domain = _text(value)
        elif number == NODE_ATTRIBUTE:
            nested |= any(number in ATTRIBUTE_GRAPHS for number, _ in _fields(_message(value)))
    return (operator if domain in ("", "ai.onnx") else f"{domain}:{operator}"), nested


def _add_weights(weights: dict[str, int], tensor: bytes) -> None:
    """Add the file in which a tensor lies, and how many bytes it must have for it."""
    place = {
        _text(entry.get(ENTRY_KEY, b"")): _text(entry.get(ENTRY_VALUE, b""))
        for number, value in _fields(tensor)
        if number == TENSOR_EXTERNAL
        for entry in [dict(_fields(_message(value)))]
    }
    if place:
        end = _number(place.get("offset", "0")) + _number(place.get("length", "0"))
        name = place.get("location", "")
        weights[name] = max(end, weights.get(name, 0))


def _argument(value: bytes) -> Argument:
    fields = dict(_fields(value))
    kinds = dict(_fields(_message(fields.get(VALUE_TYPE, b""))))
    tensor = dict(_fields(_message(kinds.get(TYPE_TENSOR, b""))))
    element, sizes = tensor.get(TENSOR_ELEMENT, 0), tensor.get(TENSOR_SHAPE, b"")
    if not isinstance(element, int):
        raise ValueError("the type of an argument is no number")
    shape = tuple(_size(_message(size)) for number, size in _fields(_message(sizes)) if number == SHAPE_SIZE)
    return Argument(_text(fields.get(VALUE_NAME, b"")), element, shape)


def _size(size: bytes) -> int | str:
    fields = dict(_fields(size))
    number = fields.get(SIZE_NUMBER)
    return number if isinstance(number, int) else _text(fields.get(SIZE_NAME, b""))


def _fields(message: bytes) -> Iterator[Field]:
    """Yield the number and value of each field of a message, in order; values of fixed size are left out."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
        elif kind == BYTES:
            length, place = _varint(message, place)
            if length > end - place:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, message[place : place + length]
            place += length
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    byte = message[place]
    if byte < 128:
        return byte, place + 1
    value, shift = byte & 127, 7
    while byte >= 128:
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
        place += 1
        byte = message[place]
        value |= (byte & 127) << shift
        shift += 7
    return value, place + 1


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message is wanted")
    return value


def _text(value: int | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("a number stands where a string is wanted")
    return value.decode("utf-8")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"an offset is no whole number: {text[:40]!r}")
    return int(text)
