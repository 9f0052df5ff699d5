"""A carved bundle in torch gives the logits of the runtime, at every level, whatever the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint

from skipstone.api import export
from skipstone.distill.operators import OPERATORS
from skipstone.distill.torch_model import TorchModel
from skipstone.errors import UnsupportedModel
from skipstone.runtime.bundle import SPARSE, Bundle
from skipstone.runtime.engine import Feed, Model, Part

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with biases": {"mlp_bias": True, "attention_bias": True},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "granite": {"residual_multiplier": 0.5},
    "stablelm": {"use_parallel_residual": True},
    "olmo2": {},
    "mistral": {"sliding_window": 8},
}
TOKEN_IDS = [int(number) for number in np.random.default_rng(0).integers(3, 60, 24)]


def runtime_logits(bundle: Path, counts: tuple[int, ...] | None) -> np.ndarray:
    model = Model.open(bundle)
    feed = Feed.of(TOKEN_IDS, rows=range(len(TOKEN_IDS)))
    part = Part() if counts is None else Part(variant=SPARSE, active=counts)
    return model.new_workspace(context_length=32).call(feed, part).run(feed).copy()


def torch_logits(bundle: Path, counts: tuple[int, ...] | None) -> np.ndarray:
    model = TorchModel(Bundle.open(bundle))
    with torch.no_grad():
        model.prepare(TOKEN_IDS)
        found: np.ndarray = model.logits(TOKEN_IDS, counts).numpy()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exits", ["none", "1"])
def test_torch_gives_the_logits_of_the_runtime(
    family: str, exits: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(family.split()[0], **SIZES, **FAMILIES[family])
    bundle = export(checkpoint, tmp_path / "out", experts="8", precision="fp32", exits=exits)
    entry = Bundle.open(bundle).manifest.experts
    assert entry is not None
    for counts in (None, *(level.active for level in entry.levels.values())):
        expected = runtime_logits(bundle, counts)
        np.testing.assert_allclose(torch_logits(bundle, counts), expected, atol=1e-4 * np.abs(expected).max())


def test_attention_that_is_not_known_here_is_refused() -> None:
    rows, scales = torch.zeros(1, 2, 8), torch.ones(1)
    with pytest.raises(UnsupportedModel, match="sinks"):
        OPERATORS["GroupQueryAttention"]({"num_heads": 1, "kv_num_heads": 1}, rows, rows, rows, *[None] * 8, scales)
