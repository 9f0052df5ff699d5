"""What a checkpoint holds beyond its config.json: refused where it would count, named where it is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeCheckpoint
from safetensors.numpy import load_file, save_file

from skipstone.api import plan
from skipstone.errors import CheckpointError

GEMMA3N = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 5,
    "laurel_rank": 6,
    "hidden_size_per_layer_input": 12,
    "vocab_size_per_layer_input": 301,
}


def holding(checkpoint: Path, target: Path, *names: str) -> Path:
    """A copy of a checkpoint with more tensors."""
    shutil.copytree(checkpoint, target)
    tensors = load_file(target / "model.safetensors")
    save_file(tensors | {name: np.ones(4, np.float32) for name in names}, target / "model.safetensors")
    return target


def test_an_adapter_that_is_not_merged_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(CheckpointError, match=f"holds {name}, a part of an adapter that is not merged.*--lora"):
        plan(holding(tiny_checkpoint, tmp_path / "more", name))


def test_an_expert_beyond_the_last_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("mixtral", num_local_experts=4, num_experts_per_tok=2)
    name = "model.layers.0.block_sparse_moe.experts.4.w1.weight"
    with pytest.raises(CheckpointError, match=f"holds {name}, an expert beyond"):
        plan(holding(checkpoint, tmp_path / "more", name))


def test_what_the_model_has_no_place_for_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    chosen = plan(holding(tiny_checkpoint, tmp_path / "more", "model.extra.weight", "vision.tower.weight"))
    assert chosen.remarks == ("1 tensors are not part of the model and left out: model.extra.weight",)


def test_masks_and_frequencies_of_older_programs_pass_in_silence(
    make_checkpoint: MakeCheckpoint, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    old = holding(tiny_checkpoint, tmp_path / "old", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert plan(old).remarks == ()
    neox = make_checkpoint("gpt_neox", hidden_size=64)
    masks = ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias")
    assert plan(holding(neox, tmp_path / "neox", *masks)).remarks == ()


def test_projections_of_layers_that_share_a_cache_may_be_there_unused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Gemma 3n as released holds them."""
    checkpoint = make_checkpoint("gemma3n_text", **GEMMA3N)
    names = [f"model.layers.3.self_attn.{name}.weight" for name in ("k_proj", "v_proj", "k_norm")]
    assert plan(holding(checkpoint, tmp_path / "more", *names)).remarks == ()
