"""Scales found on a text: the model stays the same function, and its rounded products come closer to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from family_cases import CASES
from gguf_files import WHOLE_BLOCKS
from packed_checkpoints import write_gptq

from skipstone.api import plan
from skipstone.calibrate import LayerGraphs, hessians
from skipstone.calibrate.scales import with_scales
from skipstone.devices import open_device
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import rounded
from skipstone.quant import hessian_error

TWO = {"num_hidden_layers": 2}
TOKEN_IDS = np.random.default_rng(0).integers(3, 300, (8, 20))


def planned(checkpoint: Path, precision: Any = "int4", **options: Any) -> ExportPlan:
    made = plan(checkpoint, precision=precision, **options)
    assert isinstance(made, ExportPlan)
    return replace(made, recipe=made.recipe.calibrated())


def folded(made: ExportPlan, folder: Path) -> ExportPlan:
    return with_scales(made, LayerGraphs(made, open_device(), folder), TOKEN_IDS, lambda share: None)


def test_heads_that_the_kernel_fills_up_get_scales(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    before = planned(make_checkpoint(**TWO, head_dim=20))
    after = folded(before, tmp_path)
    for part in ("v", "o", "up", "down", "attention_norm"):
        name = before.architecture.names[part].format(layer=1)
        shape = before.architecture.tensor_shapes()[name]
        stored, changed = (made.checkpoint.tensors.read(name, shape) for made in (before, after))
        assert not np.array_equal(stored, changed), part


def test_the_folded_model_is_the_same_function(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    before = planned(make_checkpoint(**TWO))
    states = []
    for made in (before, folded(before, tmp_path)):
        graphs = LayerGraphs(made, open_device(), tmp_path)
        with graphs.embedding() as graph:
            hidden = graph.embed(TOKEN_IDS)
        for layer in range(2):
            with graphs.layer(layer) as graph:
                hidden = graph.states(hidden)
        states.append(hidden)
    np.testing.assert_allclose(states[1], states[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "reader"), [("llama", "head"), ("olmoe", "expert_gate"), ("olmoe", "expert_up")])
def test_heads_of_their_own_and_experts_get_scales_too(
    family: str, reader: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    case = CASES[family]
    before = planned(make_checkpoint(case.model_type, dtype=case.dtype, **case.config | TWO))
    after = folded(before, tmp_path)
    (name, *_) = before.architecture.stored_names(reader, 1)
    shape = before.architecture.tensor_shapes()[name]
    stored, changed = (made.checkpoint.tensors.read(name, shape) for made in (before, after))
    factors = changed / np.where(stored == 0, 1, stored)
    np.testing.assert_allclose(
        factors[stored != 0], np.broadcast_to(factors.max(axis=0), shape)[stored != 0], rtol=1e-3
    )
    assert np.ptp(factors.max(axis=0)) > 0.01


def test_products_lose_less_on_the_text(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    before = planned(make_checkpoint(**TWO, hidden_size=64))
    errors = []
    for made in (before, folded(before, tmp_path)):
        with LayerGraphs(made, open_device(), tmp_path).embedding() as graph:
            hidden = graph.embed(TOKEN_IDS)
        with LayerGraphs(made, open_device(), tmp_path).layer(0, tap=lambda name: name == "layers.0.qkv") as graph:
            (hessian,) = hessians(graph, hidden).values()
        names = [made.architecture.names[part].format(layer=0) for part in "qkv"]
        matrix = np.concatenate(
            [made.checkpoint.tensors.read(name, made.checkpoint.tensors.shape(name)) for name in names]
        )
        rule = made.recipe.for_tensor("layers.0.down")
        errors.append(hessian_error(matrix, rounded("q", matrix, rule).dequantize(), hessian))
    assert errors[1] < errors[0]


def test_integers_that_stay_get_no_scales(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    packed = planned(write_gptq(tmp_path / "gptq", make_checkpoint(**WHOLE_BLOCKS)))
    kept = folded(packed, tmp_path)
    assert kept.num_kept == packed.num_kept
