"""`DropLayers`: a model without some layers is the one in which these add nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from gguf_files import WHOLE_BLOCKS
from numpy.typing import NDArray
from packed_checkpoints import write_gptq

from skipstone.api import plan
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import DropLayers
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
ADDS = ("o_proj", "down_proj", "c_proj", "attention.dense", "self_attention.dense", "dense_4h_to_h")
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied, with biases": ("llama", {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}),
    "matrices in one": ("phi3", {"hidden_size": 64}),
    "the other way round": ("gpt2", {}),
    "parallel": ("falcon", {"hidden_size": 64}),
    "windows in some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "experts": ("olmoe", {"hidden_size": 48, "num_experts": 6, "num_experts_per_tok": 2}),
}


def logits_of(bundle: Path) -> Logits:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def silenced(model_type: str, config: dict[str, Any], layers: tuple[int, ...]) -> Logits:
    """What transformers computes when some layers add nothing to the stream."""
    import torch

    model = random_model(model_type, "float32", TINY | config)
    for name, weight in model.named_parameters():
        if any(f".{layer}." in name for layer in layers) and any(part in name for part in ADDS):
            weight.data[:] = 0
    with torch.no_grad():
        logits: Logits = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_the_one_whose_layers_add_nothing(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config = FAMILIES[family]
    bundle = make_bundle(make_checkpoint(model_type, **config), transforms=(DropLayers((0, 2)),))
    wanted = silenced(model_type, config, (0, 2))
    np.testing.assert_allclose(logits_of(bundle), wanted, rtol=0, atol=1e-4)
    assert np.abs(silenced(model_type, config, ()) - wanted).max() > 0.01
    manifest = Bundle.open(bundle).manifest
    assert manifest.dimensions.num_layers == len(manifest.cache) == 2


def test_transformers_can_build_the_pruned_model(make_checkpoint: MakeCheckpoint) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    checkpoint = make_checkpoint("qwen2", use_sliding_window=True, sliding_window=5, layer_types=kinds)
    settings = pruned(checkpoint, (0,)).settings
    assert settings["num_hidden_layers"] == 3 and settings["layer_types"] == kinds[1:]


def test_integers_of_the_checkpoint_stay_integers(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = write_gptq(tmp_path / "gptq", make_checkpoint(**WHOLE_BLOCKS))
    whole = plan(checkpoint)
    assert isinstance(whole, ExportPlan)
    assert whole.num_kept == 2 * pruned(checkpoint, (1,)).num_kept > 0


@pytest.mark.parametrize("layers", [(), (4,), (0, 1, 2, 3), (-1,)])
def test_layers_that_cannot_be_left_out_are_refused(make_checkpoint: MakeCheckpoint, layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be left out of 4"):
        pruned(make_checkpoint(), layers)


def test_a_check_needs_layers_whose_kinds_are_stated() -> None:
    transform = DropLayers((0,))
    with pytest.raises(UnsupportedModel, match="leave --check out"):
        transform.settings({"num_hidden_layers": 3}, _architecture_of_two_windows())


def _architecture_of_two_windows() -> Any:
    class Architecture:
        family = "test"
        windows = (5, None)

        class dimensions:
            num_layers = 2

        def is_mixture(self, layer: int) -> bool:
            return False

    return Architecture()


def pruned(checkpoint: Path, layers: tuple[int, ...]) -> ExportPlan:
    made = plan(checkpoint, transforms=[DropLayers(layers)])
    assert isinstance(made, ExportPlan)
    return made
