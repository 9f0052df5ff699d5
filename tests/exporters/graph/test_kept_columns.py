"""Matrices of which some columns are numbers: graphs multiply and look up what their twins in numbers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conftest import MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.api import export
from skipstone.devices import open_device
from skipstone.exporters.graph import FLOAT, TARGETS, GraphPen, WeightFile
from skipstone.exporters.graph.linear import Linear
from skipstone.quant import QuantizedMatrix, Recipe, beside_columns, quantize
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Floats = NDArray[np.float32]
FP32 = Recipe.named("fp32")  # in which inputs are not rounded
IDS = np.array([0, 33, 69])


def matrix_of(bits: int, rows: int = 40, columns: int = 70) -> QuantizedMatrix:
    numbers = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    return beside_columns(numbers, IDS, lambda rest: quantize(rest, bits=bits, block_size=32, symmetric=bits == 8))


def run(graph: Any, folder: Path, target: str, *, rank: int, **inputs: NDArray[Any]) -> list[Floats]:
    """Run what `graph` writes with a Linear and its inputs; its outputs have this rank."""
    with WeightFile(folder / "weights.bin", least_bits=TARGETS[target].least_bits) as file:
        pen = GraphPen("test", file)
        kernels = TARGETS[target](pen)
        given = {
            name: pen.input(
                name,
                FLOAT if array.dtype == np.float32 else ir.DataType.INT64,
                [f"{name}_{axis}" for axis in range(array.ndim)],
            )
            for name, array in inputs.items()
        }
        for number, value in enumerate(graph(Linear(kernels, FP32), **given)):
            pen.output(value, f"y_{number}", FLOAT, [f"y_{number}_{axis}" for axis in range(rank)])
        ir.save(kernels.model(), folder / "test.onnx")
    return list(open_device("cpu").open_session(folder / "test.onnx").run(None, inputs))


@pytest.mark.parametrize("target", ["ort", "plain"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_are_those_of_the_numbers(bits: int, target: str, tmp_path: Path) -> None:
    matrix, x = matrix_of(bits), np.random.default_rng(1).normal(size=(2, 3, 70)).astype(np.float32)
    bias = np.arange(40, dtype=np.float32)
    (y,) = run(lambda linear, x: [linear(x, "matrix", lambda: [matrix], bias)], tmp_path, target, rank=3, x=x)
    np.testing.assert_allclose(y, x @ matrix.dequantize().T + bias, rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", ["ort", "plain"])
def test_rows_that_are_looked_up_have_all_columns(target: str, tmp_path: Path) -> None:
    matrix, ids = matrix_of(4), np.array([[5, 0, 39], [7, 7, 1]])
    (rows,) = run(lambda linear, ids: [linear.rows("matrix", ids, lambda: matrix)], tmp_path, target, rank=3, ids=ids)
    np.testing.assert_array_equal(rows, matrix.dequantize()[ids])


def test_the_first_rows_and_some_others_are_multiplied_alike(tmp_path: Path) -> None:
    matrix, x = matrix_of(8), np.random.default_rng(1).normal(size=(4, 70)).astype(np.float32)
    first, others = run(
        lambda linear, x, ids: linear.some_rows(x, "matrix", lambda: matrix, 11, ids),
        tmp_path,
        "ort",
        rank=2,
        x=x,
        ids=np.array([39, 2]),
    )
    wanted = x @ matrix.dequantize().T
    np.testing.assert_allclose(first, wanted[:, :11], rtol=0, atol=1e-4)
    np.testing.assert_allclose(others, wanted[:, [39, 2]], rtol=0, atol=1e-4)


def logits_of(bundle: Path) -> Floats:
    sequence = Model.open(bundle).new_sequence(context_length=64)
    sequence.append(np.random.default_rng(0).integers(3, 300, size=21).tolist())
    return sequence.extend(Draft.empty()).copy()


@pytest.mark.parametrize("target", ["ort", "plain"])
@pytest.mark.parametrize("family", ["llama, tied", "gpt2", "phi3", "gemma3n_text", "olmoe"])
def test_a_model_of_two_bits_whose_columns_are_all_numbers_is_the_model(
    family: str, target: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    rules = [{"pattern": "*", "bits": 2, "outliers": 4096}]
    if family == "olmoe":  # experts keep none
        rules.append({"pattern": "*.experts", "bits": 32})
    bundle = export(checkpoint, tmp_path / "out", recipe={"name": "all", "rules": rules}, target=target)
    wanted = logits_of(export(checkpoint, tmp_path / "fp32", precision="fp32"))
    np.testing.assert_allclose(logits_of(bundle), wanted, rtol=0, atol=0.02 * np.abs(wanted).max())


def test_the_recipe_of_such_a_bundle_makes_it_again(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(num_hidden_layers=2, max_position_embeddings=24)
    (tmp_path / "text.txt").write_text("def add(one, two): return one\n" * 300)
    rules = [
        {"pattern": "*", "bits": 4, "outliers": 3},
        {"pattern": "*.down", "bits": 4, "method": "gptq", "outliers": 0.1},
    ]
    recipe = {"name": "mine", "rules": rules, "calibration": {"text": str(tmp_path / "text.txt")}}
    first = export(checkpoint, tmp_path / "first", recipe=recipe)
    second = export(checkpoint, tmp_path / "second", recipe=first)
    sums = [Bundle.open(bundle).manifest.files["weights.bin"].sha256 for bundle in (first, second)]
    assert sums[0] == sums[1]
