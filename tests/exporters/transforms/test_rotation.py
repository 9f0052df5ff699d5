"""Rotations change every weight and no logit; what they cannot keep is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray

from skipstone.api import plan
from skipstone.errors import UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import Rotation
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
TWO = {"num_hidden_layers": 2}
TIED = {"tie_word_embeddings": True}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "hidden_size": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, all biases": ("llama", TIED | {"mlp_bias": True, "attention_bias": True}),
    "llama, a size with a Hadamard matrix, heads of 20": ("llama", {"hidden_size": 80, "head_dim": 20}),
    "mistral, one key-value head": ("mistral", {"num_key_value_heads": 1, "sliding_window": 5}),
    "qwen2, biases of q, k and v, tied": ("qwen2", TIED),
    "qwen3, norms of heads": ("qwen3", {"attention_bias": True} | TIED),
    "smollm3": ("smollm3", {}),
    "granite, every scale": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0} | TIED,
    ),
    "phi3, joined projections": ("phi3", {"hidden_size": 64}),
    "mixtral, experts": ("mixtral", EXPERTS),
    "qwen3_moe, a dense layer, tied": (
        "qwen3_moe",
        EXPERTS | TIED | {"mlp_only_layers": [0], "moe_intermediate_size": 24},
    ),
    "olmoe, clipped values": ("olmoe", EXPERTS | {"clip_qkv": 2.0}),
}


def logits_of(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


@pytest.mark.parametrize("name", MODELS)
def test_a_rotated_model_gives_the_same_logits(
    name: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config = MODELS[name]
    checkpoint = make_checkpoint(model_type, **TWO, **config)
    as_it_is, rotated = make_bundle(checkpoint), make_bundle(checkpoint, transforms=(Rotation(seed=1),))
    np.testing.assert_allclose(logits_of(rotated), logits_of(as_it_is), rtol=0, atol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_stages_exits_and_drafts_of_a_rotated_model_work(
    tied: bool, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    checkpoint = make_checkpoint(**TWO, tie_word_embeddings=tied)
    options: dict[str, Any] = {"exits": "auto", "draft_head": 100}
    as_it_is, rotated = make_bundle(checkpoint, **options), make_bundle(checkpoint, transforms=(Rotation(),), **options)
    np.testing.assert_allclose(logits_of(rotated), logits_of(as_it_is), rtol=0, atol=1e-3)


def test_every_matrix_is_turned_and_gains_become_one(make_checkpoint: MakeCheckpoint) -> None:
    planned = plan(make_checkpoint(**TWO), precision="fp32", transforms=(Rotation(),))
    before = plan(make_checkpoint(**TWO), precision="fp32")
    assert isinstance(planned, ExportPlan) and isinstance(before, ExportPlan)
    for name, shape in planned.architecture.tensor_shapes().items():
        turned, stored = (each.checkpoint.tensors.read(name, shape) for each in (planned, before))
        if "norm" in name:
            np.testing.assert_array_equal(turned, np.ones(shape))
        else:
            assert np.abs(turned - stored).max() > 0.01, name


def test_an_outlier_channel_of_the_stream_is_spread(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(**TWO, hidden_size=64)
    planned = plan(checkpoint, precision="fp32", transforms=(Rotation(),))
    assert isinstance(planned, ExportPlan)
    name = planned.architecture.names["embedding"]
    row = planned.checkpoint.tensors.read(name, planned.architecture.tensor_shapes()[name])
    before = plan(checkpoint, precision="fp32")
    assert isinstance(before, ExportPlan)
    stored = before.checkpoint.tensors.read(name, row.shape)
    np.testing.assert_allclose(np.linalg.norm(row, axis=1), np.linalg.norm(stored, axis=1), rtol=1e-5)


def test_a_tied_model_stays_tied_for_one_more_matrix(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(**TWO, **TIED)
    sizes = [
        Bundle.open(make_bundle(checkpoint, transforms=transforms)).manifest.files["weights.bin"].size
        for transforms in ((), (Rotation(),))
    ]
    assert 0 <= sizes[1] - sizes[0] - 4 * 52 * 52 < 4096


def test_the_same_seed_gives_the_same_bytes(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(**TWO)
    bundles = [
        make_bundle(checkpoint, transforms=(Rotation(seed=seed, heads=True),), cuts=cuts)
        for seed, cuts in ((3, "none"), (3, "each"), (4, "none"))
    ]
    rows = [Bundle.open(bundle).manifest.files["weights.bin"].sha256 for bundle in bundles]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        ("gpt2", {}, "norms subtract the mean"),
        ("gpt_neox", {"hidden_size": 64}, "norms subtract the mean"),
        ("olmo2", {}, "what its blocks add is normed"),
        ("gemma2", {}, "what its blocks add is normed"),
    ],
)
def test_models_that_cannot_be_rotated_are_refused_by_name(
    model_type: str, config: dict[str, Any], reason: str, make_checkpoint: MakeCheckpoint
) -> None:
    with pytest.raises(UnsupportedModel, match=f"a {model_type} cannot be rotated, as {reason}"):
        plan(make_checkpoint(model_type, **TWO, **config), transforms=(Rotation(),))


def test_a_model_is_rotated_once(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(UnsupportedModel, match="rotated already"):
        plan(make_checkpoint(**TWO, **TIED), transforms=(Rotation(), Rotation(seed=1)))
