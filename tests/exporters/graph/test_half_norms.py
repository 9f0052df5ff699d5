"""Norms of graphs in float16, computed as a device would that has no wider numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from skipstone.exporters.graph import TARGETS, GraphPen, WeightFile

EPSILON = 1e-5


@pytest.mark.parametrize("largest", [0.01, 1.0, 400.0])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_hold_numbers_whose_squares_float16_does_not(tmp_path: Path, kind: str, largest: float) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 64)).astype(np.float16)
    x[..., 5] = largest
    with WeightFile(tmp_path / "weights.bin", numbers="float16") as file:
        pen = GraphPen("norm", file)
        gain = pen.constant("gain", np.ones(64, np.float32))
        kernels = TARGETS["qnn"].for_bucket(pen, 2, 16)
        normed = kernels.norm(kind, pen.input("x", ir.DataType.FLOAT16, (1, 2, 64)), gain, epsilon=EPSILON)
        pen.output(normed, "normed", ir.DataType.FLOAT16, (1, 2, 64))
        model = ir.to_proto(kernels.model())
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    exact = x.astype(np.float64)
    if kind == "layer":
        exact = exact - exact.mean(-1, keepdims=True)
    wanted = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(found, wanted, rtol=0.01, atol=0.01)
