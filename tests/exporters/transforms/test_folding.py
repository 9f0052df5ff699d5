"""Scales are folded into weights, and no logit changes; what has no place for them is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skipstone.api import plan
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.checkpoints import open_checkpoint
from skipstone.exporters.families import Architecture, read_architecture
from skipstone.exporters.transforms import Folding, GainFolding, Rotation, Transform, fold_points
from skipstone.runtime.engine import Draft, Model

TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
TWO = {"num_hidden_layers": 2}
TIED = {"tie_word_embeddings": True}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "hidden_size": 64}
PLACES = ("qkv", "o", "gate_up", "down")
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("llama", {}, PLACES),
    "llama, tied, all biases": ("llama", TIED | {"mlp_bias": True, "attention_bias": True}, PLACES),
    "mistral, one key-value head": ("mistral", {"num_key_value_heads": 1}, PLACES),
    "qwen2": ("qwen2", {}, PLACES),
    "qwen3, tied": ("qwen3", TIED, PLACES),
    "olmo2, norms behind the blocks": ("olmo2", {}, ("o", "down")),
    "phi3, joined projections": ("phi3", {"hidden_size": 64}, PLACES),
    "gemma2, gains from 1, tied": ("gemma2", TIED, PLACES),
    "gemma3": ("gemma3_text", TIED, PLACES),
    "gpt2, the other way round": ("gpt2", {}, ("qkv", "o", "up")),
    "gpt_neox, grouped and parallel": ("gpt_neox", {"hidden_size": 64}, ("qkv", "o", "up")),
    "falcon, one norm for both": ("falcon", {"hidden_size": 64, "parallel_attn": True}, ("qkv", "o")),
    "mixtral": ("mixtral", EXPERTS, ("qkv", "o", "experts")),
    "olmoe, clipped values": ("olmoe", EXPERTS | {"clip_qkv": 2.0}, ("qkv", "experts")),
}


def logits_of(bundle: Path) -> NDArray[np.float32]:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def architecture_of(checkpoint: Path) -> Architecture:
    opened = open_checkpoint(checkpoint)
    return read_architecture(opened.config, opened.tensors.names())


def random_folding(architecture: Architecture) -> Folding:
    """Scales from a quarter to four for every place of a model."""
    rng, points = np.random.default_rng(0), fold_points(architecture)
    return Folding(
        {name: (4 ** rng.uniform(-1, 1, point.num_scales)).astype(np.float32) for name, point in points.items()}
    )


@pytest.mark.parametrize("name", MODELS)
def test_folded_scales_leave_the_logits(name: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model_type, config, places = MODELS[name]
    checkpoint = make_checkpoint(model_type, **TWO, **config)
    architecture = architecture_of(checkpoint)
    folding = random_folding(architecture)
    head = () if architecture.tied_embedding else ("head",)
    assert sorted(folding.scales) == sorted(
        [*head, *(f"layers.{layer}.{place}" for layer in (0, 1) for place in places)]
    )
    as_it_is, folded = make_bundle(checkpoint), make_bundle(checkpoint, transforms=(folding,))
    np.testing.assert_allclose(logits_of(folded), logits_of(as_it_is), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_gains_are_folded_and_the_logits_stay(
    name: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config, _ = MODELS[name]
    checkpoint = make_checkpoint(model_type, **TWO, **config)
    as_it_is, folded = make_bundle(checkpoint), make_bundle(checkpoint, transforms=(GainFolding(0.45),))
    np.testing.assert_allclose(logits_of(folded), logits_of(as_it_is), rtol=0, atol=1e-4)


def test_large_gains_cost_less_once_they_are_folded(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Of weights whose inputs are of very different size: the default in int4 is nearer than without."""
    checkpoint = make_checkpoint("llama", **TWO, hidden_size=128)
    gains = np.exp(1.5 * np.random.default_rng(1).standard_normal((2, 128))).astype(np.float32)
    tensors = load_file(checkpoint / "model.safetensors")
    for layer in (0, 1):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = gains[layer].astype(np.float16)
    copy = tmp_path / "large-gains"
    shutil.copytree(checkpoint, copy)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    wanted = logits_of(written(copy, tmp_path / "fp32", "fp32", calibration=None))
    folded, as_it_is = (
        np.square(logits_of(written(copy, tmp_path / name, "int4", calibration=known)) - wanted).mean()
        for name, known in (("folded", None), ("as_it_is", {}))
    )
    assert folded < 0.8 * as_it_is


def written(checkpoint: Path, folder: Path, precision: str, *, calibration: dict[str, object] | None) -> Path:
    """Write a bundle; gains are folded in it unless a calibration is said to have been there."""
    planned = plan(checkpoint, precision=precision)
    assert isinstance(planned, ExportPlan)
    replace(planned, calibration=calibration).write(folder)
    return folder


def test_every_scale_is_folded_into_the_matrix_it_is_for(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(**TWO, **TIED)
    folding = random_folding(architecture_of(checkpoint))
    before, after = plan(checkpoint), plan(checkpoint, transforms=(folding,))
    assert isinstance(before, ExportPlan) and isinstance(after, ExportPlan)
    for name, shape in before.architecture.tensor_shapes().items():
        stored, changed = (each.checkpoint.tensors.read(name, shape) for each in (before, after))
        is_outside = name in ("model.embed_tokens.weight", "model.norm.weight")
        assert np.array_equal(stored, changed) == is_outside, name


@pytest.mark.parametrize("tied", [False, True])
def test_scales_can_be_folded_into_a_rotated_model(
    tied: bool, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    checkpoint = make_checkpoint(**TWO, tie_word_embeddings=tied)
    transforms: tuple[Transform, ...] = (Rotation(), random_folding(architecture_of(checkpoint)))
    folded = make_bundle(checkpoint, transforms=transforms)
    np.testing.assert_allclose(logits_of(folded), logits_of(make_bundle(checkpoint)), rtol=0, atol=1e-3)


def test_transformers_agrees_with_a_folded_model(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(**TWO)
    make_bundle(checkpoint, transforms=(random_folding(architecture_of(checkpoint)),), check=True)


@pytest.mark.parametrize(
    ("name", "scales", "message"),
    [
        ("layers.0.down", np.ones(5), r"layers\.0\.down takes scales of shape \[76\], found \[5\]"),
        ("layers.1.qkv", np.zeros(52), r"scales of layers\.1\.qkv must be positive numbers"),
        ("layers.1.o", np.full(32, np.nan), r"scales of layers\.1\.o must be positive numbers"),
    ],
)
def test_scales_that_are_none_are_refused(
    name: str, scales: NDArray[np.float64], message: str, make_checkpoint: MakeCheckpoint
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(make_checkpoint(**TWO), transforms=(Folding({name: scales.astype(np.float32)}),))


@pytest.mark.parametrize(
    ("model_type", "place"),
    [("gpt2", "layers.0.down"), ("olmo2", "layers.0.qkv"), ("llama", "layers.9.qkv"), ("llama", "embedding")],
)
def test_places_that_a_model_lacks_are_refused(model_type: str, place: str, make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(UnsupportedModel, match=f"a {model_type} has no scales to fold at {place}"):
        plan(make_checkpoint(model_type, **TWO), transforms=(Folding({place: np.ones(52, np.float32)}),))


def test_no_scales_change_nothing(make_checkpoint: MakeCheckpoint) -> None:
    planned = plan(make_checkpoint(**TWO), transforms=(Folding({}),))
    assert isinstance(planned, ExportPlan) and planned.is_as_shipped
