"""What stands in for experts that are left out: it lowers the KL, and all experts together stay the dense model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint

from skipstone.activate.reader import Reader
from skipstone.api import export, plan
from skipstone.calibrate import Documents, Windows
from skipstone.carve import FoundExperts, find_experts
from skipstone.carve.carve import NUM_WINDOWS
from skipstone.carve.stand_ins import StandIns
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Part

SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 256}
TOKEN_IDS = list(range(3, 23))


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("llama", **SIZES)


def find(checkpoint: Path, **options: Any) -> FoundExperts:
    return find_experts(plan(checkpoint, precision="fp32"), "8", Documents.read("auto"), distill=True, **options)


def laws(bundle: Path, share: str | None) -> np.ndarray:
    """Return the logits of the sparse graphs at a level, of the plain ones without one."""
    model = Model.open(bundle)
    assert model.manifest.experts is not None
    part = Part() if share is None else Part(variant="sparse", active=model.manifest.experts.levels[share].active)
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS)
    sequence.extend(Draft.empty())
    sequence.append([7])
    return sequence.peek_by([7], part)


def kl_of(bundle: Path, checkpoint: Path) -> float:
    """Return the KL of the bundle's graphs at half active along the windows that a distillation holds back."""
    planned = plan(checkpoint, precision="fp32")
    assert isinstance(planned, ExportPlan)
    model = Model.open(bundle)
    assert model.manifest.experts is not None
    windows = Windows.of(planned, Documents.read("auto"), num_windows=NUM_WINDOWS).held_back
    reader = Reader(model, windows.tolist())
    return reader.kl(model.manifest.experts.levels["0.5"].active, len(windows))


def test_vectors_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    left_out, vectors = rng.integers(0, 2, (200, 5)).astype(np.float32), rng.standard_normal((5, 7))
    sums = StandIns.empty(5, 7)
    for rows in (slice(50), slice(50, None)):
        sums.add(left_out[rows], (left_out[rows] @ vectors).astype(np.float32))
    np.testing.assert_allclose(sums.solve(), vectors.T, atol=0.02)


def test_the_same_text_gives_the_same_vectors(checkpoint: Path) -> None:
    first, second = (find(checkpoint, way="sizes/fit") for _ in range(2))
    assert first.losses == second.losses
    for layer, carved in first.transform.layers.items():
        other = second.transform.layers[layer].router
        assert all(np.array_equal(tensor, other[name]) for name, tensor in carved.router.items())


@pytest.mark.parametrize("family", ["olmo2", "granite"])
def test_the_kl_falls_also_where_a_model_is_carved_badly(make_checkpoint: MakeCheckpoint, family: str) -> None:
    found = find(make_checkpoint(family, **SIZES), way="markers/centre")
    assert found.losses is not None
    before, after = found.losses
    assert 0 < after < before
    assert str(found).endswith(f"; KL {before:.3f}, distilled {after:.3f}")
    assert all("expert_rest" in layer.router for layer in found.transform.layers.values())


def test_without_a_gain_experts_stay_as_carved(checkpoint: Path) -> None:
    found = find(checkpoint, active=1.0)  # none is left out, so there is nothing to gain
    assert found.losses == (0, 0)
    assert str(found).endswith("which is no gain over 0.000: left as carved")
    assert not any("expert_rest" in layer.router for layer in found.transform.layers.values())


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int4", "cache": "int8"},
        {"recipe": {"name": "own", "rotation": {"seed": 1}, "rules": [{"pattern": "*", "bits": 8, "block_size": 32}]}},
    ],
    ids=["int8 cache", "rotated"],
)
def test_the_plain_text_stays_and_the_manifest_has_the_kl(
    checkpoint: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    carved, distilled = (
        export(checkpoint, tmp_path / f"{distill}", experts="8", distill=distill, **options)
        for distill in (False, True)
    )
    assert np.array_equal(laws(carved, None), laws(distilled, None))
    scale = np.abs(laws(carved, None)).max()
    np.testing.assert_allclose(laws(distilled, "1"), laws(carved, "1"), atol=1e-5 * scale)
    assert np.abs(laws(distilled, "0.5") - laws(carved, "0.5")).max() > 1e-3 * scale
    entry = Bundle.open(distilled).manifest.experts
    assert entry is not None
    assert entry.levels["0.5"].kl is not None
    assert entry.levels["0.75"].kl is None


def test_the_graph_adds_what_was_fitted(checkpoint: Path, tmp_path: Path) -> None:
    losses, found = [], find(checkpoint)
    for distill in (False, True):
        bundle = export(checkpoint, tmp_path / f"{distill}", experts="8", distill=distill, precision="fp32")
        losses.append(kl_of(bundle, checkpoint))
    np.testing.assert_allclose(losses, found.losses, rtol=0.02)


def test_distilling_wants_experts(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--distill is for experts"):
        export(checkpoint, tmp_path / "out", distill=True)
