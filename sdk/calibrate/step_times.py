"""How long a step of one token takes: of a bundle as a whole, and of products of one row by the form of the matrix."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnx_ir as ir

from skipstone.devices import open_device
from skipstone.exporters.graph import FLOAT, GraphPen, OrtKernels, WeightFile
from skipstone.quant import QuantizedMatrix, TensorRecipe, quantize, take_rows
from skipstone.runtime.engine import Draft, Model

__all__ = ["StepTimes", "step_ms"]

_SHAPE: Final = (16384, 1024)  # more than caches hold
_RUNS: Final = 15


def step_ms(bundle: Path) -> float:
    """Return the median time of a step of one token behind a short text, in milliseconds."""
    sequence = Model.open(bundle).new_sequence()
    sequence.append([0])
    times = []
    for _ in range(min(_RUNS, sequence.room - 1)):
        start = time.perf_counter()
        sequence.extend(Draft.empty())
        times.append(time.perf_counter() - start)
        sequence.commit([0])
    return 1e3 * statistics.median(times)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Nanoseconds for each weight of a product with one row, by the rule that the matrix is stored by."""

    ns: Mapping[TensorRecipe, float]

    @classmethod
    def measure(cls, rules: Sequence[TensorRecipe]) -> Self:
        """Measure a product for each rule. Cost: about a second."""
        return cls({rule: _product_ns(rule) for rule in rules})

    def ms(self, rule: TensorRecipe, shape: tuple[int, int]) -> float:
        """Return the time of a product with a matrix [N, K]; of a rule that was not measured, by its bits."""
        known = self.ns.get(rule) or min(self.ns.items(), key=lambda item: abs(item[0].bits - rule.bits))[1]
        return known * shape[0] * shape[1] / 1e6


def _product_ns(rule: TensorRecipe) -> float:
    rows, columns = _SHAPE
    row = np.random.default_rng(0).normal(size=(1, columns)).astype(np.float32)
    one = quantize(row, bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric)
    matrix = take_rows(one, np.zeros(rows, np.int64))
    assert isinstance(matrix, QuantizedMatrix), "rows of integers are integers"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        with WeightFile(path.with_name("weights.bin")) as file:
            pen = GraphPen("product", file)
            kernels = OrtKernels(pen)
            x = pen.input("x", FLOAT, (1, columns))
            (stored,) = file.add_matrices("matrix", lambda: [matrix], rule)
            pen.output(kernels.product(x, stored, None), "y", FLOAT, (1, rows))
            ir.save(kernels.model(), path)
        session = open_device().open_session(path)
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            session.run(None, {"x": row})
            times.append(time.perf_counter() - start)
        del session
    return 1e9 * statistics.median(times) / (rows * columns)
