"""Carving a whole model: what an export with experts writes, beside all else that an export can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from gguf_files import WriteGguf

from skipstone.api import export, plan
from skipstone.calibrate import Documents
from skipstone.carve import find_experts
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Part

TOKEN_IDS = list(range(3, 23))
SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 256}


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("llama", **SIZES)


def find(checkpoint: Path, experts: str = "8", **options: Any) -> Any:
    planned = plan(checkpoint, precision="int4")
    return find_experts(planned, experts, Documents.read("auto"), **options)


def test_the_same_text_carves_alike(checkpoint: Path) -> None:
    first, second = (find(checkpoint) for _ in range(2))
    assert first.table == second.table
    for layer, carved in first.transform.layers.items():
        other = second.transform.layers[layer]
        assert np.array_equal(carved.neurons, other.neurons)
        assert all(np.array_equal(tensor, other.router[name]) for name, tensor in carved.router.items())


def test_the_errors_of_all_ways_are_shown(checkpoint: Path) -> None:
    found = find(checkpoint)
    assert str(found).startswith("FFNs carved into 8 experts, 50 % active: output error ")
    assert {"markers/centre", "k-means/fit", "sizes/fit"} <= set(found.table.means)


@pytest.mark.parametrize(
    ("experts", "message"),
    [("3", "4 to 8 fit this model"), ("9", "4 to 8 fit"), ("many", "takes auto or a number"), ("0", "4 to 8 fit")],
)
def test_other_numbers_are_refused(checkpoint: Path, experts: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(checkpoint, experts)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int8", "exits": "1"},
        {"precision": "int8", "exits": "1", "cuts": "each", "draft_head": "auto"},
        {"precision": "int4", "cache": "int8"},
        {"precision": "int4", "calibrate": "auto"},
        {"prune": "1layers"},
        {"prune": "width:10%", "precision": "int4"},
        {"recipe": {"name": "own", "rotation": {"seed": 1}, "rules": [{"pattern": "*", "bits": 4, "block_size": 32}]}},
        {
            "recipe": {
                "name": "mixed",
                "rules": [
                    {"pattern": "*", "bits": 4, "block_size": 64},
                    {"pattern": "layers.*.down", "bits": 8, "block_size": 32},
                ],
            }
        },
    ],
    ids=["exits", "cuts", "int8 cache", "calibrated", "pruned", "narrowed", "rotated", "mixed"],
)
def test_experts_go_with_other_options(checkpoint: Path, options: dict[str, Any], tmp_path: Path) -> None:
    out = export(checkpoint, tmp_path / "out", experts="auto", active=0.6, **options)
    manifest = Bundle.open(out).manifest
    assert manifest.experts is not None
    assert manifest.experts.default == "0.6"
    assert "sparse" in manifest.variant_kinds
    for part in manifest.variants.values():
        assert all((out / file).is_file() for file in part.values())
    sparse, plain = agreeing(out)
    np.testing.assert_allclose(sparse, plain, atol=0.1 * np.abs(plain).max())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_file_of_integers_is_carved(write_gguf: WriteGguf, kind: str, tmp_path: Path) -> None:
    out = export(write_gguf("llama, blocks of 256", kind=kind), tmp_path / "out", experts="auto")
    sparse, plain = agreeing(out)
    np.testing.assert_allclose(sparse, plain, atol=0.1 * np.abs(plain).max())


def agreeing(bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of the sparse graphs with all experts, and those of the plain ones."""
    model = Model.open(bundle)
    experts = model.manifest.experts
    assert experts is not None
    found = []
    for part in (Part(variant="sparse", active=experts.levels["1"].active), Part()):
        sequence = model.new_sequence()
        sequence.append(TOKEN_IDS)
        sequence.extend(Draft.empty())
        sequence.append([7])
        found.append(sequence.peek_by([7], part))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "plain"}, "no operator for experts"),
        (
            {"recipe": {"name": "own", "rules": [{"pattern": "*", "bits": 4, "block_size": 32, "outliers": 2}]}},
            "outliers",
        ),
    ],
)
def test_what_does_not_go_with_experts_is_refused(
    checkpoint: Path, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        export(checkpoint, tmp_path / "out", experts="auto", **options)
    assert not (tmp_path / "out").exists()


def test_active_wants_experts(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add --experts auto"):
        export(checkpoint, tmp_path / "out", active=0.5)
    with pytest.raises(ConfigError, match="above 0 and up to 1"):
        export(checkpoint, tmp_path / "out", experts="auto", active=1.5)
