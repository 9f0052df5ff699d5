"""Rounders that know more of a matrix than its numbers: what it is multiplied by, or what was solved before."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.work_folder import WorkFolder
from skipstone.devices import physical_cores
from skipstone.errors import CheckpointError
from skipstone.exporters.graph import rounded
from skipstone.quant import (
    Curvature,
    QuantizedMatrix,
    TensorRecipe,
    beside_columns_by_inputs,
    gptq,
    largest_columns,
    quantize,
)

__all__ = ["SolvedRounder", "SolvingRounder"]

Floats = NDArray[np.float32]


class SolvingRounder:
    """Rounds matrices whose inputs are known so that the products stay close; others as `rounded` does.

    `hessians` are the mean outer products [K, K] of the inputs, by the name of the matrix. All experts of a layer are
    given those of all tokens. `solved` has what was made.
    """

    def __init__(self, hessians: Mapping[str, NDArray[np.float64]]) -> None:
        self._hessians = hessians
        self._curvatures: dict[int, Future[Curvature]] = {}
        self.solved: dict[str, QuantizedMatrix] = {}

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        known = name if name in self._hessians else _router(name)
        if known not in self._hessians or not rule.reads_text:
            return rounded(name, matrix, rule)
        try:
            self.solved[name] = self._solved(known, matrix, rule)
        except ValueError as error:
            raise CheckpointError(f"{name} cannot be rounded by its inputs: {error}; leave --calibrate out") from error
        return self.solved[name]

    def _solved(self, known: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        """Return the integers of a matrix by a method that reads a text. Raises: ValueError."""
        hessian = self._hessians[known]
        if not (count := rule.num_outliers(matrix.shape[1])):
            return _by_inputs(matrix, self._curvature(known) if rule.method == "gptq" else hessian, rule)
        ids = largest_columns(np.diag(hessian), count)
        return beside_columns_by_inputs(matrix, ids, hessian, lambda rest, left: _by_inputs(rest, left, rule))

    def _curvature(self, name: str) -> Curvature:
        """Return that of a matrix's inputs; the first time those of all are begun, beside what else is done.

        Matrices with the same inputs have the same array.
        """
        if not self._curvatures:
            pool = ThreadPoolExecutor(physical_cores())
            arrays = {id(hessian): hessian for hessian in self._hessians.values()}
            self._curvatures = {key: pool.submit(Curvature.of, hessian) for key, hessian in arrays.items()}
            pool.shutdown(wait=False)
        return self._curvatures[id(self._hessians[name])].result()


def _by_inputs(matrix: Floats, inputs: NDArray[np.float64] | Curvature, rule: TensorRecipe) -> QuantizedMatrix:
    form: dict[str, Any] = {"bits": rule.bits, "block_size": rule.block_size, "symmetric": rule.symmetric}
    if rule.method == "gptq":
        return gptq(matrix, inputs, **form)
    assert not isinstance(inputs, Curvature), "a search needs no more than the Hessian"
    return quantize(matrix, **form, importance=np.diag(inputs).astype(np.float32))


def _router(name: str) -> str:
    """Return the matrix that reads what an expert's `gate_up` reads; of no expert the name itself."""
    layer, gate_up, _ = name.partition(".experts.gate_up.")
    return f"{layer}.router" if gate_up else name


class SolvedRounder:
    """Gives the matrices that a work folder holds, of the steps with these keys; others as `rounded` does."""

    def __init__(self, folder: WorkFolder, keys: Mapping[str, bytes]) -> None:
        """`keys` has the step by the name of the matrix."""
        self._folder, self._keys = folder, keys
        self._step: bytes | None = None  # the last that was asked for
        self._matrices: Mapping[str, QuantizedMatrix] = {}

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        if name not in self._keys:
            return rounded(name, matrix, rule)
        if self._keys[name] != self._step:
            self._step = self._keys[name]
            self._matrices = self._folder.matrices(self._step)
        return self._matrices[name]
