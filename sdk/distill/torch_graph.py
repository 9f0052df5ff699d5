"""A graph of a bundle that torch walks, node by node: what is constant is computed once, and integers become float32.

Only graphs that our exporter wrote go here; another operator is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir

from skipstone.distill.operators import OPERATORS, Attributes, quantized
from skipstone.errors import UnsupportedModel
from skipstone.exporters.graph import PACKED_PRODUCT
from skipstone.train import require_torch

__all__ = ["Around", "TorchGraph"]

_PRODUCTS: Final = ("MatMul", "Gemm", PACKED_PRODUCT)


Around: TypeAlias = Callable[[str, Any, Callable[[Any], Any]], Any]
"""The name of a matrix, what is multiplied by it and how; returns the product, or another in its place."""


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    matrix: str | None


class TorchGraph:
    """One graph; its matrices in float32 are in memory from the first run on."""

    def __init__(self, file: Path) -> None:
        """Raises: UnsupportedModel for an operator that is not known here."""
        graph = ir.load(file).graph
        self.inputs = [value.name or "" for value in graph.inputs]
        self._outputs = [value.name for value in graph.outputs]
        self._tensors = {
            name: value.const_value for name, value in graph.initializers.items() if value.const_value is not None
        }
        self._values: dict[str, Any] = {}
        self._matrices: dict[str, Any] = {}
        nodes = [_node(node) for node in graph]
        unknown = sorted({node.kind for node in nodes} - {*OPERATORS, PACKED_PRODUCT})
        if unknown:
            raise UnsupportedModel(f"{file.name} has operators that no slope is known for here: {', '.join(unknown)}")
        self._nodes = nodes

    def run(self, feed: Mapping[str, Any], around: Around | None = None) -> dict[str, Any]:
        """Return the outputs that are no caches, by name, for inputs by name."""
        values: dict[str, Any] = dict.fromkeys(self.inputs) | dict(feed)
        for node in self._nodes:
            given = [None if name is None else self._value(name, values) for name in node.inputs]
            found = self._compute(node, given, around)
            outputs = found if isinstance(found, tuple) else (found,)
            if all(name is None or self._is_constant(name) for name in node.inputs):
                self._values |= dict(zip(node.outputs, outputs, strict=False))
            values |= dict(zip(node.outputs, outputs, strict=False))
        return {name: values[name] for name in self._outputs if name and values.get(name) is not None}

    def _compute(self, node: _Node, given: list[Any], around: Around | None) -> Any:
        def multiply(x: Any) -> Any:
            if node.kind == PACKED_PRODUCT:
                return self._packed_product(node, x, *given[1:])
            return OPERATORS[node.kind](node.attributes, x, *given[1:])

        if node.kind not in _PRODUCTS:
            return OPERATORS[node.kind](node.attributes, *given)
        if node.matrix is None or around is None:
            return multiply(given[0])
        return around(node.matrix, given[0], multiply)

    def _packed_product(
        self, node: _Node, x: Any, data: Any, scales: Any, points: Any = None, order: Any = None, bias: Any = None
    ) -> Any:
        name, a = node.inputs[1] or "", node.attributes
        if name not in self._matrices:
            form = {"bits": a["bits"], "block_size": a["block_size"], "columns": a["K"]}
            self._matrices[name] = quantized(data, scales, points, **form)
        if a.get("accuracy_level") == 4:
            x = _rounded(x, a["block_size"])
        product = x @ self._matrices[name].T
        return product if bias is None else product + bias

    def _is_constant(self, name: str) -> bool:
        return name in self._tensors or name in self._values

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        if name not in self._values:
            array = np.array(self._tensors[name].numpy())  # a copy: the file is mapped
            self._values[name] = require_torch().from_numpy(array)
        return self._values[name]


def _rounded(x: Any, block_size: int) -> Any:
    """Return x with blocks in 8 bits, as the product takes them; slopes flow as if it were x."""
    torch, columns = require_torch(), x.shape[-1]
    with torch.no_grad():
        blocks = torch.nn.functional.pad(x, (0, -columns % block_size)).unflatten(-1, (-1, block_size))
        scales = blocks.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
        rounded = ((blocks / scales).round() * scales).flatten(-2)[..., :columns]
    return x + (rounded - x).detach()


def _node(node: ir.Node) -> _Node:
    names = tuple(None if value is None else value.name for value in node.inputs)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    is_product = node.op_type in _PRODUCTS and len(names) > 1
    matrix = _matrix_name(names[1] or "") if is_product and "." in (names[1] or "") else None
    outputs = tuple(value.name or "" for value in node.outputs)
    return _Node(node.op_type, tuple(name or None for name in names), outputs, attributes, matrix)


def _matrix_name(tensor: str) -> str:
    """Return `layers.3.down` for `layers.3.down.data`."""
    return tensor.removesuffix(".data").removesuffix(".transposed")
