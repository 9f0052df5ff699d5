"""A calibrated export: layer by layer the model itself, better than plain rounding, the same bytes every time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.api import export, plan
from skipstone.bundled import cache_folder
from skipstone.calibrate import Documents, LayerGraphs, Windows, hessians
from skipstone.calibrate.quality import quality_line
from skipstone.calibrate.rounders import SolvingRounder
from skipstone.calibrate.work_folder import WorkFolder
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.evaluate import log_softmax, score
from skipstone.exporters.graph import rounded
from skipstone.quant import QuantizedMatrix, TensorRecipe
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model

Floats = NDArray[np.float32]
FAMILIES = (
    "llama",
    "llama, tied",
    "llama, all biases",
    "llama, heads of 20",
    "llama, llama3 rope",
    "mistral, window of 5",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt2",
    "gpt_neox",
    "falcon, one key-value head",
    "falcon, groups, two norms",
    "olmo2",
    "olmoe",
    "mixtral",
)
SMALL = {"max_position_embeddings": 24}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = np.random.default_rng(0).choice(["def ", "add", "(one", ", two", ")\n", "return ", "the fox ", "é"], 3000)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tie_word_embeddings=True, num_hidden_layers=2, **SMALL)


def files(bundle: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in Bundle.open(bundle).manifest.files.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_it_is_the_model(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    graphs = LayerGraphs(plan(checkpoint, precision="fp32"), open_device(), tmp_path)
    token_ids = np.random.default_rng(0).integers(3, 300, (2, 20))
    with graphs.embedding() as graph:
        states = graph.embed(token_ids)
    for layer in range(graphs.num_layers):
        with graphs.layer(layer) as graph:
            states = graph.states(states)
    with graphs.head() as graph:
        found = graph.logits(states).reshape(2, 20, -1)
    model = Model.open(make_bundle(checkpoint))
    for row, window in zip(found, token_ids.tolist(), strict=True):
        wanted = np.concatenate([logits.copy() for _, logits in score(model, window)])
        np.testing.assert_allclose(row[:-1], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "num_solved"),
    [("llama", 17), ("llama, tied", 17), ("gpt2", 17), ("falcon, one key-value head", 17), ("olmoe", 9 + 4 * 6)],
)
def test_every_matrix_knows_its_inputs_but_those_that_lead_out_of_experts(
    family: str, num_solved: int, make_checkpoint: MakeCheckpoint, text: Path, tmp_path: Path
) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config | SMALL)
    bundle = Bundle.open(export(checkpoint, tmp_path / "out", calibrate=text))
    assert bundle.manifest.recipe["calibration"] == {
        "text": str(text),
        "num_tokens": 48 * 24,
        "seed": 0,
        "matrices": num_solved,
    }


def test_the_products_of_a_layer_are_closer_than_with_plain_rounding(
    checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    planned = plan(checkpoint)
    graphs, windows = LayerGraphs(planned, open_device(), tmp_path), Windows.of(planned, Documents.read(text))
    with graphs.embedding() as graph:
        states = graph.embed(windows.calibrate)
    with graphs.layer(0, tap=lambda name: True) as graph:
        means = hessians(graph, states)
    errors: dict[str, list[float]] = {}

    def both(name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        solved, plain = SolvingRounder(means)(name, matrix, rule), rounded(name, matrix, rule)
        for result in (solved, plain):
            off = matrix - result.dequantize()
            errors.setdefault(name, []).append(float(((off @ means[name]) * off).sum()))
        return solved

    with graphs.layer(0, planned.recipe.calibrated(), both):
        pass
    assert sorted(errors) == [f"layers.0.{part}" for part in ("down", "gate_up", "o", "qkv")]
    assert all(solved <= plain for solved, plain in errors.values())
    assert sum(solved for solved, _ in errors.values()) < 0.95 * sum(plain for _, plain in errors.values())


def test_two_runs_give_the_same_bytes_and_leave_nothing_behind(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    first, second = (export(checkpoint, tmp_path / name, calibrate=text) for name in ("first", "second"))
    assert files(first) == files(second)
    assert not list((cache_folder() / "calibrations").iterdir())


@pytest.mark.parametrize("num_steps", range(4))
def test_a_run_that_was_interrupted_goes_on_and_gives_the_same_bytes(
    num_steps: int, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(checkpoint, tmp_path / "whole", calibrate=text)
    saved = list[bytes]()
    save = WorkFolder.save

    def save_some(folder: WorkFolder, key: bytes, *step: Any) -> None:
        if len(saved) == num_steps:
            raise KeyboardInterrupt
        saved.append(key)
        save(folder, key, *step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WorkFolder, "save", save_some)
        export(checkpoint, tmp_path / "out", calibrate=text)
    assert not (tmp_path / "out").exists()
    again = list[bytes]()
    monkeypatch.setattr(WorkFolder, "save", lambda folder, key, *step: (again.append(key), save(folder, key, *step)))
    assert files(export(checkpoint, tmp_path / "out", calibrate=text)) == files(whole)
    assert len(saved) + len(again) == 4 and not set(saved) & set(again)


def test_other_weights_or_another_recipe_do_not_take_what_is_left(
    checkpoint: Path, text: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkFolder, "remove", lambda folder: None)
    export(checkpoint, tmp_path / "out", calibrate=text)
    other = make_checkpoint(tie_word_embeddings=True, num_hidden_layers=2, initializer_range=0.1, **SMALL)
    for name, (source, options) in {"weights": (other, {}), "recipe": (checkpoint, {"group_size": 64})}.items():
        left = export(source, tmp_path / name, calibrate=text, **options)
        with monkeypatch.context() as patch:
            patch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
            assert files(export(source, tmp_path / f"{name} alone", calibrate=text, **options)) == files(left)


def test_the_quality_is_that_of_the_bundle_on_the_text_held_back(
    checkpoint: Path, text: Path, tmp_path: Path, make_bundle: MakeBundle
) -> None:
    bundle = export(checkpoint, tmp_path / "out", calibrate=text)
    reference, model = Model.open(make_bundle(checkpoint)), Model.open(bundle)
    nats = []
    for window in Windows.of(plan(checkpoint), Documents.read(text)).held_back.tolist():
        for (_, wanted), (_, found) in zip(score(reference, window), score(model, window), strict=True):
            p, q = log_softmax(wanted), log_softmax(found)
            nats.append((np.exp(p) * (p - q)).sum(axis=1))
    figures: Any = Bundle.open(bundle).manifest.check
    assert figures["held_back"]["num_tokens"] == 2 * 23
    assert figures["held_back"]["kl"] == pytest.approx(np.concatenate(nats).mean(), rel=1e-3)


def test_the_command_ends_with_a_line_on_quality(
    checkpoint: Path, text: Path, tmp_path: Path, cli: CommandLine
) -> None:
    result = cli("export", checkpoint, "-o", tmp_path / "out", "--precision", "int8", "--calibrate", text)
    assert result.code == 0
    assert re.search(r"^quality: KL 0\.0\d+ on 46 tokens held back, \d+\.\d % of top choices kept$", result.err, re.M)
    inspected = cli("inspect", tmp_path / "out")
    assert inspected.code == 0 and "exported without --check" in inspected.out


def test_a_large_difference_is_a_warning(checkpoint: Path, tmp_path: Path) -> None:
    assert "warning" not in quality_line(0.1, 0.9, num_tokens=5)
    assert "above 0.1" in quality_line(0.11, 0.9, num_tokens=5)


def test_a_draft_model_is_calibrated_too(text: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    small = make_checkpoint(num_hidden_layers=1, intermediate_size=32, tie_word_embeddings=True, **SMALL)
    bundle = Bundle.open(export(make_checkpoint(**SMALL), tmp_path / "out", draft_model=small, calibrate=text))
    draft_model = bundle.open_draft_model()
    assert draft_model is not None and draft_model.manifest.recipe["calibration"]["matrices"] == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "fp32"}, "rounds nothing, so there is nothing to calibrate"),
        ({"calibrate": "missing.txt"}, "missing.txt cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    options: dict[str, Any], reason: str, checkpoint: Path, text: Path, tmp_path: Path, unreadable: None
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        export(checkpoint, tmp_path / "out", **{"calibrate": text} | options)
    assert "\n" not in str(caught.value)


def test_models_of_several_streams_are_rounded_as_without_a_text_and_say_so(
    make_checkpoint: MakeCheckpoint, text: Path, tmp_path: Path, cli: CommandLine
) -> None:
    case = CASES["gemma3n_text"]
    checkpoint = make_checkpoint(case.model_type, **case.config)
    result = cli("export", checkpoint, "-o", tmp_path / "out", "--calibrate", text)
    assert result.code == 0 and "several streams is rounded as without a text" in result.err
    assert "quality" not in result.err
    assert (
        files(tmp_path / "out")["weights.bin"]
        == files(export(checkpoint, tmp_path / "plain", precision="int4"))["weights.bin"]
    )
