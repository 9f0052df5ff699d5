"""A thin pen for onnx-ir: one call a node, names made on the way, weights by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.graph.weight_file import StoredScales, WeightFile

__all__ = ["FLOAT", "Attribute", "GraphPen"]

Attribute = int | float | str | Sequence[int] | Sequence[str]

FLOAT = ir.DataType.FLOAT


class GraphPen:
    """Collects the nodes, inputs and initializers of one graph; every method returns the values it made.

    `file` is the weight file of the bundle.
    """

    def __init__(self, name: str, file: WeightFile) -> None:
        self._name, self.file = name, file
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._scales: dict[str, ir.Value] = {}

    @property
    def numbers(self) -> ir.DataType:
        """The type of the numbers that nodes pass on, as the weight file has them: float32 or float16."""
        return ir.DataType.from_numpy(self.file.numbers)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Return a new input of the graph; sizes that differ from call to call have names."""
        value = _typed(name, dtype, shape)
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph, under this name."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self._outputs.append(value)

    def float_output(self, value: ir.Value, name: str, shape: Sequence[int | str]) -> None:
        """Make numbers an output of the graph as float32, whatever the type that nodes pass on."""
        given = value if self.numbers == FLOAT else self.op("Cast", value, to=FLOAT.value)
        self.output(given, name, FLOAT, shape)

    def weight(self, name: str, make: Callable[[], NDArray[np.generic]]) -> ir.Value:
        """Return a value for the tensor `name` of the bundle's weight file, making it if no graph has yet."""
        return self.stored(self.file.add(name, make))

    def integers(self, name: str, values: NDArray[np.uint8], bits: int) -> ir.Value:
        """Return a value for small integers of the weight file; see `WeightFile.add_integers`."""
        return self.stored(self.file.add_integers(name, values, bits))

    def stored(self, tensor: ir.ExternalTensor) -> ir.Value:
        """Return a value for a tensor of the bundle's weight file."""
        assert tensor.name is not None, "stored tensors have names"
        return self._initializers.get(tensor.name) or self._initializer(tensor)

    def scales(self, stored: StoredScales) -> ir.Value:
        """Return a value for scales as numbers of the graph. Devices compute it once, when they open the graph."""
        value = self.stored(stored.tensor)
        if stored.tensor.dtype == self.numbers and not stored.exponent:
            return value
        name = stored.tensor.name
        assert name is not None, "stored tensors have names"
        if name not in self._scales:
            numbers = self.op("Cast", value, to=self.numbers.value)
            if stored.exponent:
                factor = self.number(f"two_to_{stored.exponent}", 2.0**stored.exponent)
                numbers = self.op("Mul", numbers, factor)
            self._scales[name] = numbers
        return self._scales[name]

    def view(
        self, tensor: ir.ExternalTensor, suffix: str, shape: Sequence[int], dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Return a value for the bytes of a tensor of the weight file in another shape, as another type."""
        return self.stored(self.file.view(tensor, suffix, shape, dtype))

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Return a value for a small array that is stored inside the graph; float32 becomes the graph's numbers."""
        if name in self._initializers:
            return self._initializers[name]
        return self._initializer(ir.tensor(self.file.as_numbers(array), name=name))

    def number(self, name: str, value: float) -> ir.Value:
        """Return a value for a scalar that is stored inside the graph, no larger than its type allows."""
        most = float(np.finfo(self.file.numbers).max)
        return self.constant(name, np.array(min(max(value, -most), most), np.float32))

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        assert tensor.name is not None
        value = _typed(tensor.name, tensor.dtype, tensor.shape.numpy())
        value.const_value = tensor
        self._initializers[tensor.name] = value
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Append a node and return its only output."""
        (output,) = self.op_outputs(op_type, *inputs, count=1, domain=domain, **attributes)
        return output

    def op_outputs(
        self, op_type: str, *inputs: ir.Value | None, count: int, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Append a node and return its first `count` outputs."""
        node = ir.node(
            op_type,
            inputs=inputs,
            attributes=attributes,
            domain=domain,
            num_outputs=count,
            name=f"{op_type}_{len(self._nodes)}",
        )
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_{index}"
        self._nodes.append(node)
        return node.outputs

    def some_rows(self, x: ir.Value, row_ids: ir.Value | None) -> ir.Value:
        """Return the rows of x [B, T, ...] with the numbers `row_ids`, all where that is None."""
        return x if row_ids is None else self.op("Gather", x, row_ids, axis=1)

    def model(self, opsets: Mapping[str, int], ir_version: int) -> ir.Model:
        """Return the graph with all that was written to it; `opsets` has the version of each domain of operators."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=tuple(self._initializers.values()),
            opset_imports=dict(opsets),
            name=self._name,
        )
        return ir.Model(graph, ir_version=ir_version, producer_name="skipstone")


def _typed(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
