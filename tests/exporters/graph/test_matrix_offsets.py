"""A model whose blocks have offsets: its bundle computes what the numbers that they stand for do."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.exporters import ExportOptions, plan_export
from skipstone.exporters.checkpoints import TensorSource
from skipstone.quant import QuantizedMatrix, Recipe, quantize
from skipstone.runtime.engine import Draft, Model

TEXT = np.random.default_rng(0).integers(3, 300, size=21).tolist()


class Shifted:
    """Tensors of which each matrix is one of integers with offsets; or the numbers of these."""

    def __init__(self, tensors: TensorSource, *, kept: bool) -> None:
        self._tensors, self._kept = tensors, kept
        self.num_bytes, self.num_rounded, self.names, self.shape = tensors.num_bytes, 0, tensors.names, tensors.shape

    def is_quantized(self, name: str) -> bool:
        return self._kept and self._is_matrix(name)

    def _is_matrix(self, name: str) -> bool:
        return len(self.shape(name)) == 2 and "norm" not in name

    @functools.cache  # noqa: B019 - lives as long as the test
    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        matrix = quantize(self._tensors.read(name, shape), bits=8, block_size=32, symmetric=False)
        shares = np.random.default_rng(len(name)).uniform(-0.5, 0.5, matrix.scales.shape)
        return replace(matrix, offsets=(4 * shares * matrix.scales).astype(np.float32))

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if self._is_matrix(name):
            return self.read_quantized(name, (shape[0], shape[1])).dequantize()
        return self._tensors.read(name, shape)


@pytest.mark.parametrize("target", ["ort", "plain"])
@pytest.mark.parametrize("family", ["llama, tied", "qwen3", "gpt_neox", "gemma3n_text"])
def test_offsets_are_in_the_logits(make_checkpoint: MakeCheckpoint, tmp_path: Path, family: str, target: str) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    plan = plan_export(checkpoint, ExportOptions(recipe=Recipe.named("fp32"), target=target))
    logits = []
    for kept in (True, False):
        tensors = Shifted(plan.checkpoint.tensors, kept=kept)
        replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors)).write(tmp_path / str(kept))
        sequence = Model.open(tmp_path / str(kept)).new_sequence(context_length=64)
        sequence.append(TEXT)
        logits.append(sequence.extend(Draft.empty()).copy())
    found, wanted = logits
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_products_with_the_same_inputs_share_their_sums(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    plan = plan_export(make_checkpoint("llama"), ExportOptions(recipe=Recipe.named("fp32")))
    tensors = Shifted(plan.checkpoint.tensors, kept=True)
    replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors)).write(tmp_path / "bundle")
    nodes = onnx.load(tmp_path / "bundle/stage-00.onnx", load_external_data=False).graph.node
    num_sums = sum(node.op_type == "ReduceSum" for node in nodes)
    assert num_sums == 4 * plan.architecture.dimensions.num_layers + 1
