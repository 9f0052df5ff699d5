"""A carved model: as a whole it is the dense one, and so is its sparse variant with all experts active."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from skipstone.api import plan
from skipstone.errors import UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.families import Architecture, CarvedFfn
from skipstone.exporters.transforms import CarveExperts, ExpertLayer
from skipstone.runtime.engine import rotary_rows

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 144, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with biases": {"mlp_bias": True},
    "qwen3": {},
    "phi3": {},
    "granite": {"residual_multiplier": 0.5},
    "stablelm": {"use_parallel_residual": True},
    "olmo2": {},
}
Numbers = NDArray[np.generic]
ALL = 7


def carving(architecture: Architecture, *, router: str = "linear", block: int = 16) -> CarveExperts:
    """Experts of 16 neurons in an order of chance, with a router of chance."""
    rng, layers = np.random.default_rng(0), {}
    for layer, width in enumerate(architecture.ffn_widths):
        ffn = CarvedFfn(num_routed=ALL - 2, width=block, router=router)
        shapes = ffn.router_shapes(architecture.dimensions.hidden_size)
        tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        layers[layer] = ExpertLayer(ffn, rng.permutation(width), tensors)
    return CarveExperts(ALL, 2, layers)


def logits(bundle: Path, plan: ExportPlan, file: str, active: int = ALL) -> NDArray[np.float32]:
    """Run a text of 12 tokens through a graph of a bundle."""
    session = ort.InferenceSession(str(bundle / file))
    d, count = plan.architecture.dimensions, 12
    rows = np.arange(count)
    inputs: dict[str, Numbers] = {
        "token_ids": (7 * rows % d.vocab_size)[None, :, None],
        "token_weights": np.ones((1, count, 1), np.float32),
        "position_ids": rows[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "attention_bias": np.zeros((1, 1, count, count), np.float32),
        "attention_rows": rows,
        "token_rows": rows,
        "rows": rows,
        "active_experts": np.full(d.num_layers, active),
    }
    for number, rotary in enumerate(plan.architecture.rotary_kinds):
        cosines, sines = rotary_rows(rotary.entry(), range(count), width=d.head_size // 2, is_long=False)
        inputs |= {f"cosines_{number}": cosines, f"sines_{number}": sines}
    cache = np.zeros((1, d.num_kv_heads, count, d.head_size), np.float32)
    feed = {argument.name: inputs.get(argument.name, cache) for argument in session.get_inputs()}
    found: NDArray[np.float32] = session.run(["logits"], feed)[0]
    return found


def written(checkpoint: Path, folder: Path, transforms: list[CarveExperts], **options: Any) -> tuple[Path, ExportPlan]:
    planned = plan(checkpoint, transforms=transforms, **options)
    assert isinstance(planned, ExportPlan)
    planned.write(folder)
    return folder, planned


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("router", ["linear", "neuron"])
def test_all_experts_give_the_logits_of_the_dense_model(
    family: str, router: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(family.split()[0], **SIZES, **FAMILIES[family])
    dense = written(checkpoint, tmp_path / "dense", [], precision="fp32")
    carved = written(checkpoint, tmp_path / "carved", [carving(dense[1].architecture, router=router)], precision="fp32")
    expected = logits(*dense, "stage-00.onnx")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(*carved, "stage-00.onnx"), expected, atol=1e-5 * scale)
    np.testing.assert_allclose(logits(*carved, "stage-00.sparse.onnx"), expected, atol=1e-5 * scale)
    assert np.abs(logits(*carved, "stage-00.sparse.onnx", 4) - expected).max() > 1e-3 * scale


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_integers_of_the_experts_are_those_of_the_whole(
    precision: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    sizes = SIZES | {"intermediate_size": 300}  # the last block is not whole
    checkpoint = make_checkpoint("llama", **sizes)
    options = {"precision": precision, "group_size": 32}
    base = plan(checkpoint, **options)
    assert isinstance(base, ExportPlan)
    carved = written(checkpoint, tmp_path / "carved", [carving(base.architecture, block=32)], **options)
    expected = logits(*carved, "stage-00.onnx")
    np.testing.assert_allclose(logits(*carved, "stage-00.sparse.onnx"), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(("family", "reason"), [("gpt2", "no gate"), ("gemma2", "gelu_tanh"), ("mixtral", "experts")])
def test_other_ffns_are_refused(family: str, reason: str, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(family)
    base = plan(checkpoint)
    assert isinstance(base, ExportPlan)
    with pytest.raises(UnsupportedModel, match=reason):
        plan(checkpoint, transforms=[CarveExperts(ALL, 2, {})])
