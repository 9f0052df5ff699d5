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
from skipstone.quant import Curvature, QuantizedMatrix, TensorRecipe, gptq, quantize

__all__ = ["SolvedRounder", "SolvingRounder"]

Floats = NDArray[np.float32]


class SolvingRounder:
    """Rounds matrices whose inputs are known so that the products stay close; others as `rounded` does.

    `hessians` are the mean outer products [K, K] of the inputs, by the name of the matrix. `solved` has what was made.
    """

    def __init__(self, hessians: Mapping[str, NDArray[np.float64]]) -> None:
        self._hessians = hessians
        self._curvatures: dict[int, Future[Curvature]] = {}
        self.solved: dict[str, QuantizedMatrix] = {}

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        if name not in self._hessians or not rule.reads_text:
            return rounded(name, matrix, rule)
        try:
            self.solved[name] = self._solved(name, matrix, rule)
        except ValueError as error:
            raise CheckpointError(f"{name} cannot be rounded by its inputs: {error}; leave --calibrate out") from error
        return self.solved[name]

    def _solved(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        """Return the integers of a matrix by a method that reads a text. Raises: ValueError."""
        form: dict[str, Any] = {"bits": rule.bits, "block_size": rule.block_size, "symmetric": rule.symmetric}
        if rule.method == "gptq":
            return gptq(matrix, self._curvature(name), **form)
        return quantize(matrix, **form, importance=np.diag(self._hessians[name]).astype(np.float32))

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


class SolvedRounder:
    """Gives the matrices that a work folder holds, of the steps with these keys; others as `rounded` does."""

    def __init__(self, folder: WorkFolder, keys: Mapping[str, bytes]) -> None:
        """`keys` has the step by the name of the matrix."""
        self._folder, self._keys = folder, keys

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        if name not in self._keys:
            return rounded(name, matrix, rule)
        return self._folder.matrices(self._keys[name])[name]
