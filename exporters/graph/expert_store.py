"""The matrices of all experts of a layer, in one form and one tensor each.

Shapes: B batch, T tokens, E hidden size, X experts, N outputs and K inputs of a matrix. Integers come in whole blocks,
so with them sizes are padded with zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.weight_file import StoredScales
from skipstone.quant import Matrix, QuantizedMatrix, TensorRecipe, pack, refine, take_rows

__all__ = ["ExpertStack", "ExpertStore", "StoredExperts", "expert_rule"]


def expert_rule(rule: TensorRecipe, gate_up: Matrix, down: Matrix, *, least_bits: int = 2) -> TensorRecipe:
    """Return how experts with such matrices are stored: as the rule says or finer, never coarser than `least_bits`.

    Numbers ask for the rule's bits and block size, integers for their own. The operator takes one of each for all, so
    the most bits and the smallest block win: then no integer is rounded again.
    """
    asked = [_asked(matrix, rule) for matrix in (gate_up, down)]
    return replace(rule, bits=max(least_bits, *(bits for bits, _ in asked)), block_size=min(size for _, size in asked))


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """One matrix of every expert, [X, N, K]."""

    data: ir.ExternalTensor
    scales: StoredScales | None = None
    zero_points: ir.ExternalTensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExperts:
    """Both matrices of every expert, gate_up with rows of gate and up in turn, and the form that they are stored in.

    `width` is E, in whole blocks. `gate_up_bias` [X, 2I] is added to what the first gives. At an `accuracy_level` of 4
    an operator may round what it multiplies, at 0 not.
    """

    gate_up: ExpertStack
    down: ExpertStack
    form: TensorRecipe
    width: int
    accuracy_level: int
    gate_up_bias: ir.Value | None = None


@dataclass(frozen=True, slots=True)
class ExpertStore:
    """Stores the matrices of all experts as `form` says."""

    pen: GraphPen
    rule: TensorRecipe
    form: TensorRecipe
    num_experts: int

    def padded(self, size: int) -> int:
        """Return the size in whole blocks."""
        return size if self.form.bits == 32 else -(-size // self.form.block_size) * self.form.block_size

    def add(
        self, name: str, first: Matrix, make: Callable[[int], Matrix], rows: NDArray[np.int64], shape: tuple[int, int]
    ) -> ExpertStack:
        """Store these rows of the matrix of every expert, one expert at a time, filled with zeros to `shape`."""
        filled = np.pad(rows, (0, shape[0] - len(rows)), constant_values=-1)
        matrices = itertools.chain([first], map(make, range(1, self.num_experts)))
        if self.form.bits == 32:
            return self._add_numbers(name, (take_rows(_numbers(matrix), filled) for matrix in matrices), shape)
        fitting = (self._fit(f"{name}.{expert}", matrix) for expert, matrix in enumerate(matrices))
        return self._add_integers(name, (take_rows(matrix, filled) for matrix in fitting), shape)

    def _add_numbers(self, name: str, matrices: Iterable[Matrix], shape: tuple[int, int]) -> ExpertStack:
        stack = np.empty((self.num_experts, *shape), np.float32)
        for index, matrix in enumerate(matrices):
            assert isinstance(matrix, np.ndarray), "32 bits are numbers"
            stack[index] = matrix
        return ExpertStack(self.pen.file.add(name, lambda: stack))

    def _add_integers(self, name: str, matrices: Iterable[Matrix], shape: tuple[int, int]) -> ExpertStack:
        bits, blocks = self.form.bits, shape[1] // self.form.block_size
        middle = pack(np.full(blocks, 2 ** (bits - 1), np.uint8), bits)
        data = np.empty((self.num_experts, shape[0], shape[1] * bits // 8), np.uint8)
        scales = np.empty((self.num_experts, shape[0], blocks), np.float32)
        points = np.empty((self.num_experts, shape[0], len(middle)), np.uint8)
        symmetric = True
        for index, matrix in enumerate(matrices):
            assert isinstance(matrix, QuantizedMatrix), "fewer bits are integers"
            data[index], scales[index] = matrix.data.reshape(shape[0], -1), matrix.scales
            points[index] = middle if matrix.zero_points is None else matrix.zero_points
            symmetric &= matrix.zero_points is None
        file = self.pen.file
        return ExpertStack(
            file.add(f"{name}.data", lambda: data),
            file.add_scales(f"{name}.scales", scales),
            None if symmetric else file.add(f"{name}.zero_points", lambda: points),
        )

    def _fit(self, name: str, matrix: Matrix) -> QuantizedMatrix:
        """Return the matrix as integers of that form; what is already integers keeps its values exactly."""
        bits, block_size = _asked(matrix, self.rule)
        if bits > self.form.bits or block_size < self.form.block_size:
            raise UnsupportedModel(
                f"an expert is stored in {bits} bits and blocks of {block_size}, the first one in {self.form.bits} and "
                f"{self.form.block_size}: all must be alike, take the checkpoint as it was before quantization"
            )
        if isinstance(matrix, np.ndarray):
            return self.pen.file.rounder(name, matrix, replace(self.form, outliers=0))
        if matrix.order is not None:
            raise UnsupportedModel(
                "the columns of an expert stand in an order of their own (act-order), which the operator cannot "
                "follow: take the checkpoint as it was before quantization"
            )
        assert matrix.offsets is None, "an expert's blocks have no offsets: they come rounded"
        return refine(matrix, bits=self.form.bits, block_size=self.form.block_size)


def _asked(matrix: Matrix, rule: TensorRecipe) -> tuple[int, int]:
    """Return the bits and the block size that a matrix asks for."""
    return (rule.bits, rule.block_size) if isinstance(matrix, np.ndarray) else (matrix.bits, matrix.block_size)


def _numbers(matrix: Matrix) -> NDArray[np.float32]:
    return matrix if isinstance(matrix, np.ndarray) else matrix.dequantize()
