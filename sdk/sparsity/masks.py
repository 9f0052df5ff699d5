"""The graph of a layer whose products read masked inputs: plain ONNX nodes, so it shows quality and never speed.

Two ways to mask: by thresholds on the inputs as they are (TEAL, CATS, CHESS), and by exact top-k of rotated inputs
(LaRoSA). Rows of a prompt stay dense. Each masked value has an output that counts what is left, `active_NAME` [B, T].
Shapes: B windows, T tokens of each, K inputs of a product, I inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir

from skipstone.sparsity.products import Product

__all__ = ["DENSE_ROWS", "INNER", "Change", "mask_rotated", "mask_thresholds"]

Change: TypeAlias = Callable[[ir.Model], None]
INNER: Final = "inner"
"""The name of the gate behind its activation: where it is masked, `up` has a row and `down` a column less."""
DENSE_ROWS: Final = "dense_rows"
_FLOAT, _INT64, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
_Mask: TypeAlias = Callable[["_Writer", str, ir.Value], ir.Value]


def mask_thresholds(products: Sequence[Product]) -> Change:
    """Return what gives a graph an input `cut_NAME` [1] or [K] for each product, and one for the inner values.

    What is smaller than its cut becomes 0. Outputs are the values before: `seen_MATRIX` [B, T, K], and of a gated FFN
    `seen_inner` and what they are multiplied with, `seen_up_values` [B, T, I].
    """

    def change(model: ir.Model) -> None:
        dense_rows = _input(model.graph, DENSE_ROWS, _BOOL, (1, "T", 1))
        for matrix, node in _found(model.graph, products):
            write = _Writer(model.graph, node)
            if matrix == "down" and (gating := _gating(node)):
                _mask_inner(_Writer(model.graph, gating), gating, dense_rows)
            write.output(f"seen_{matrix}", node.inputs[0])
            _apart(write, node, products, matrix, partial(_by_threshold, dense_rows))

    return change


def mask_rotated(products: Sequence[Product]) -> Change:
    """Return what gives a graph inputs `kept_MATRIX` [1], how many of the inputs of a product stay.

    The inputs of `qkv` and of what leads into the FFN are rotated before, by inputs `turn_MATRIX` [K, K], and back
    behind, which is the same as turned weights.
    """

    def change(model: ir.Model) -> None:
        dense_rows = _input(model.graph, DENSE_ROWS, _BOOL, (1, "T", 1))
        for matrix, node in _found(model.graph, products):
            write, x = _Writer(model.graph, node), node.inputs[0]
            assert x is not None, "products have two factors"
            if matrix in ("o", "down"):
                masked = _by_rank(dense_rows, write, matrix, x)
            else:
                turn = _input(model.graph, f"turn_{matrix}", _FLOAT, (f"K_{matrix}", f"K_{matrix}"))
                masked = _by_rank(dense_rows, write, matrix, write("MatMul", x, turn))
                masked = write("MatMul", masked, write("Transpose", turn, perm=[1, 0]))
            node.replace_input_with(0, masked)

    return change


def _found(graph: ir.Graph, products: Sequence[Product]) -> Iterator[tuple[str, ir.Node]]:
    """Yield the products of a graph with the matrices of `products`, by the last part of their names."""
    wanted = {product.matrix for product in products}
    for node in [*graph]:
        matrix = node.inputs[1] if node.op_type == "MatMul" else None
        if matrix is not None and matrix.const_value is not None and matrix.name is not None:
            name = matrix.name.removesuffix(".transposed").rpartition(".")[2]
            if name in wanted:
                yield name, node


def _gating(down: ir.Node) -> ir.Node | None:
    """Return the node that multiplies the gate with what goes up; None where the FFN has no gate."""
    x = down.inputs[0]
    node = None if x is None else x.producer()
    return node if node is not None and node.op_type == "Mul" and _is_gate(node) else None


def _is_gate(node: ir.Node) -> bool:
    up = node.inputs[1]
    producer = None if up is None else up.producer()
    return producer is not None and producer.op_type == "Split"


class _Writer:
    """Writes nodes before another one."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self.graph, self._before = graph, before

    def __call__(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return self.outputs(kind, *inputs, count=1, **attributes)[0]

    def outputs(self, kind: str, *inputs: ir.Value | None, count: int, **attributes: Any) -> Sequence[ir.Value]:
        node = ir.node(kind, inputs, attributes=attributes, num_outputs=count)
        self.graph.insert_before(self._before, node)
        return node.outputs

    def numbers(self, *values: float, kind: type[np.generic] = np.int64) -> ir.Value:
        return self("Constant", value=ir.tensor(np.array(values, kind)))

    def output(self, name: str, value: ir.Value | None) -> None:
        """Give the graph one more output, equal to a value."""
        output = self("Identity", value)
        output.name, output.type = name, ir.TensorType(_FLOAT)
        self.graph.outputs.append(output)


def _input(graph: ir.Graph, name: str, kind: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
    value = ir.val(name, kind, shape)
    graph.inputs.append(value)
    return value


def _mask_inner(write: _Writer, gating: ir.Node, dense_rows: ir.Value) -> None:
    gate, up = gating.inputs
    assert gate is not None, "the gate was found"
    write.output(f"seen_{INNER}", gate)
    write.output("seen_up_values", up)
    gating.replace_input_with(0, _by_threshold(dense_rows, write, INNER, gate))


def _apart(write: _Writer, node: ir.Node, products: Sequence[Product], matrix: str, mask: _Mask) -> None:
    """Let each product of one matrix read inputs that are masked for it alone."""
    parts = [product for product in products if product.matrix == matrix]
    x, weights = node.inputs
    assert x is not None, "products have two factors"
    if len(parts) == 1:
        node.replace_input_with(0, mask(write, parts[0].name, x))
        return
    outputs = list[ir.Value]()
    for part in parts:
        ends = (write.numbers(number) for number in (part.start, part.end, 1))
        outputs.append(write("MatMul", mask(write, part.name, x), write("Slice", weights, *ends)))
    joined = write("Concat", *outputs, axis=-1)
    ir.convenience.replace_all_uses_with(node.outputs[0], joined)
    write.graph.remove(node, safe=True)


def _by_threshold(dense_rows: ir.Value, write: _Writer, name: str, x: ir.Value) -> ir.Value:
    cut = _input(write.graph, f"cut_{name}", _FLOAT, (f"C_{name}",))
    return _masked(dense_rows, write, name, x, cut)


def _by_rank(dense_rows: ir.Value, write: _Writer, name: str, x: ir.Value) -> ir.Value:
    kept = _input(write.graph, f"kept_{name}", _INT64, (1,))
    largest, _ = write.outputs("TopK", write("Abs", x), kept, count=2)
    return _masked(dense_rows, write, name, x, write("Gather", largest, write.numbers(-1), axis=-1))


def _masked(dense_rows: ir.Value, write: _Writer, name: str, x: ir.Value, cut: ir.Value) -> ir.Value:
    """Return x with 0 where it is smaller than its cut, but for dense rows; count what is left."""
    stays = write("Or", write("GreaterOrEqual", write("Abs", x), cut), dense_rows)
    masked = write("Where", stays, x, write.numbers(0.0, kind=np.float32))
    write.output(f"active_{name}", write("ReduceL1", write("Sign", masked), write.numbers(-1), keepdims=0))
    return masked
