"""What stands in for experts that are left out: it lowers the KL, and all experts together stay the dense model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint

from skipstone.api import plan
from skipstone.calibrate import Documents
from skipstone.carve import FoundExperts, find_experts
from skipstone.carve.stand_ins import StandIns
from skipstone.runtime.engine import Draft, Model, Part

SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 256}
TOKEN_IDS = list(range(3, 23))


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("llama", **SIZES)


def find(checkpoint: Path, **options: Any) -> FoundExperts:
    return find_experts(plan(checkpoint, precision="fp32"), "8", Documents.read("auto"), distill=True, **options)


def laws(bundle: Path, share: str) -> np.ndarray:
    """Return the logits of the sparse graphs at a level, in fp32."""
    model = Model.open(bundle)
    assert model.manifest.experts is not None
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS)
    sequence.extend(Draft.empty())
    sequence.append([7])
    found: np.ndarray = sequence.peek_by(
        [7], Part(variant="sparse", active=model.manifest.experts.levels[share].active)
    )
    return found


def test_vectors_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    left_out, vectors = rng.integers(0, 2, (200, 5)).astype(np.float32), rng.standard_normal((5, 7))
    sums = StandIns.empty(5, 7)
    for rows in (slice(50), slice(50, None)):
        sums.add(left_out[rows], (left_out[rows] @ vectors).astype(np.float32))
    np.testing.assert_allclose(sums.solve(), vectors.T, atol=0.02)


def test_the_same_text_gives_the_same_vectors(checkpoint: Path) -> None:
    first, second = (find(checkpoint) for _ in range(2))
    assert first.losses == second.losses
    for layer, carved in first.transform.layers.items():
        other = second.transform.layers[layer].router
        assert all(np.array_equal(tensor, other[name]) for name, tensor in carved.router.items())
