"""A dense FFN whose neurons stand in the order of experts: as the whole it is, and with some of its experts only.

Shapes: B batch, T tokens, E hidden size, I inner size, R routed experts of M neurons each, A active ones of a token,
S neurons that are always active; they follow those of the experts, so I is R * M + S. Rows of gate and up alternate,
as the operator for experts wants them: so the whole FFN and the experts read the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.exporters.families import CarvedFfn
from skipstone.exporters.graph.expert_rows import integers, one_hot
from skipstone.exporters.graph.expert_store import ExpertStack, ExpertStore, StoredExperts, expert_rule
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.linear import Linear
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.weight_file import StoredMatrix, WeightFile
from skipstone.quant import Matrix, Recipe, TensorRecipe, take_columns, take_rows

__all__ = ["Router", "SparseFfn", "halves"]

Floats: TypeAlias = NDArray[np.float32]
Router: TypeAlias = Callable[[ir.Value, ir.Value], ir.Value]
"""x [B, T, E] and what the neurons give that are always active [B, T, S] to the scores of experts [B, T, R]."""
_END: Final = np.iinfo(np.int64).max


def halves(pen: GraphPen, inner: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return gate and up [B, T, N] each of [B, T, 2N], where they alternate."""
    end, last, step = integers(pen, _END), integers(pen, -1), integers(pen, 2)
    gate, up = (pen.op("Slice", inner, integers(pen, start), end, last, step) for start in (0, 1))
    return gate, up


class SparseFfn:
    """Writes one carved FFN to a graph, of which each token takes the experts that score highest.

    `gate_up` and `down` make its matrices [2I, E] and [E, I], which are stored under `name` as the whole FFN's are;
    `biases` are theirs.
    """

    def __init__(
        self,
        kernels: Kernels,
        recipe: Recipe,
        carved: CarvedFfn,
        name: str,
        gate_up: Callable[[], Matrix],
        down: Callable[[], Matrix],
        biases: tuple[Floats | None, Floats | None] = (None, None),
    ) -> None:
        self._biases = biases
        self._kernels, self._pen, self._carved, self._name = kernels, kernels.pen, carved, name
        self._linear, self._recipe = Linear(kernels, recipe), recipe
        self._gate_up = self._whole("gate_up", gate_up)
        self._down = self._whole("down", down)

    def __call__(
        self, x: ir.Value, count: ir.Value, activation: str, router: Router, rests: ir.Value | None = None
    ) -> ir.Value:
        """[B, T, E] to [B, T, E]: the sum of what is always active and of `count` [1] experts.

        Those that are left out are stood in for by their `rests` [R, E], if there are any.
        """
        inner = self._biased(self._shared(x, self._gate_up, axis=0), "gate_up", 2 * self._carved.first_shared)
        gate, up = halves(self._pen, inner)
        inner = self._pen.op("Mul", self._kernels.activate(activation, gate), up)
        _, choice = self._pen.op_outputs("TopK", router(x, inner), count, count=2, axis=-1)
        shared = self._biased(self._shared(inner, self._down, axis=1), "down", 0)
        chosen = one_hot(self._pen, choice, self._carved.num_routed)
        if rests is not None:
            shared = self._pen.op("Add", shared, self._left_out(chosen, rests))
        return self._pen.op("Add", shared, self._routed(x, chosen, count, activation))

    def _left_out(self, chosen: ir.Value, rests: ir.Value) -> ir.Value:
        """Return what stands in for the experts that are not among the chosen [B, T, A, R], [B, T, E]."""
        active = self._pen.op("ReduceSum", chosen, integers(self._pen, 2), keepdims=0)
        return self._pen.op("MatMul", self._pen.op("Sub", self._pen.number("one", 1.0), active), rests)

    def _biased(self, x: ir.Value, kind: str, start: int) -> ir.Value:
        """Return x with the bias of a matrix, from `start` on, where it has one."""
        bias = self._biases[kind == "down"]
        if bias is None:
            return x
        return self._pen.op("Add", x, self._pen.weight(f"{self._name}.{kind}.shared.bias", lambda: bias[start:]))

    def _whole(self, kind: str, make: Callable[[], Matrix]) -> _Whole:
        """Return a matrix of the whole FFN, whose integers are those that are stored already."""
        name = f"{self._name}.{kind}"
        rule = self._recipe.for_tensor(name)
        (stored,) = self._kernels.matrices(name, lambda: [make()], rule, shared=False)
        matrix = make() if stored.bits == 32 else self._pen.file.read_matrix(stored)
        return _Whole(name, rule, stored, matrix)

    def _shared(self, x: ir.Value, whole: _Whole, *, axis: int) -> ir.Value:
        """Multiply by the rows, or the columns, of the neurons that are always active."""
        first, (rows, columns) = self._carved.first_shared, whole.matrix.shape
        if axis == 0 and whole.stored.bits < 32:
            return self._linear.stored(x, self._pen.file.some_rows(whole.stored, 2 * first, rows))
        if axis == 0:
            part = take_rows(whole.matrix, np.arange(2 * first, rows))
        else:
            part = take_columns(whole.matrix, first, columns)
        return self._linear(x, f"{whole.name}.shared", lambda: [part], rule=whole.rule)

    def _routed(self, x: ir.Value, chosen: ir.Value, count: ir.Value, activation: str) -> ir.Value:
        """Return the sum of the experts that were chosen, [B, T, A]. Each row gets one expert: see `fan_out`."""
        pen, stored, hidden = self._pen, self._experts(), self._down.matrix.shape[0]
        size, axis = stored.width, integers(self._pen, 2)
        if size > hidden:
            x = pen.op("Pad", x, integers(pen, 0, 0, 0, 0, 0, size - hidden))
        copies = pen.op("Tile", x, pen.op("Concat", integers(pen, 1, 1), count, axis=0))
        rows = pen.op("Reshape", copies, integers(pen, 0, -1, size))
        logits = pen.op("Reshape", chosen, integers(pen, -1, self._carved.num_routed))
        outputs = self._kernels.run_experts(rows, logits, stored, activation)
        apart = pen.op("Concat", integers(pen, 0, -1), count, integers(pen, size), axis=0)
        mixed = pen.op("ReduceSum", pen.op("Reshape", outputs, apart), axis, keepdims=0)
        if size == hidden:
            return mixed
        return pen.op("Slice", mixed, integers(pen, 0), integers(pen, hidden), axis)

    def _experts(self) -> StoredExperts:
        gate_up, down = self._gate_up, self._down
        least = self._pen.file.least_bits
        form = expert_rule(replace(gate_up.rule, outliers=0), gate_up.matrix, down.matrix, least_bits=least)
        store = ExpertStore(self._pen, form, form, self._carved.num_routed)
        width = store.padded(down.matrix.shape[0])
        return StoredExperts(
            gate_up_bias=self._gate_up_bias(),
            gate_up=self._gate_up_stack(store, width),
            down=self._down_stack(store, width),
            form=form,
            width=width,
            accuracy_level=0 if self._recipe.kl_bound == 0 else 4,
        )

    def _gate_up_bias(self) -> ir.Value | None:
        bias, count = self._biases[0], self._carved.num_routed
        if bias is None:
            return None
        of_experts = bias[: 2 * self._carved.first_shared].reshape(count, -1)
        return self._pen.weight(f"{self._name}.experts.bias", lambda: of_experts)

    def _gate_up_stack(self, store: ExpertStore, width: int) -> ExpertStack:
        """Return gate and up of the experts: the bytes of the whole FFN where these have the form of the experts."""
        whole, count, size = self._gate_up, self._carved.num_routed, 2 * self._carved.width
        if whole.stored.bits == store.form.bits < 32 and whole.stored.block_size == store.form.block_size:
            return _view(self._pen.file, self._pen.file.some_rows(whole.stored, 0, count * size), count)

        def rows(expert: int) -> Matrix:
            return take_rows(whole.matrix, np.arange(expert * size, (expert + 1) * size))

        return store.add(f"{self._name}.experts.gate_up", rows(0), rows, np.arange(size), (size, width))

    def _down_stack(self, store: ExpertStore, width: int) -> ExpertStack:
        whole, size = self._down, self._carved.width

        def columns(expert: int) -> Matrix:
            return take_columns(whole.matrix, expert * size, (expert + 1) * size)

        hidden = np.arange(whole.matrix.shape[0])
        return store.add(f"{self._name}.experts.down", columns(0), columns, hidden, (width, size))


@dataclass(frozen=True, slots=True)
class _Whole:
    """A matrix of the whole FFN as it is stored, and as numbers or integers."""

    name: str
    rule: TensorRecipe
    stored: StoredMatrix
    matrix: Matrix


def _view(file: WeightFile, rows: StoredMatrix, count: int) -> ExpertStack:
    """Return the rows of `count` experts, by the same bytes."""
    num_rows = rows.rows // count

    def view(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
        row_bytes = tensor.nbytes // tensor.dtype.numpy().itemsize // rows.rows
        return file.view(tensor, "experts", (count, num_rows, row_bytes))

    assert rows.scales is not None, "integers have scales"
    return ExpertStack(
        view(rows.data),
        replace(rows.scales, tensor=view(rows.scales.tensor)),
        None if rows.zero_points is None else view(rows.zero_points),
    )
