"""Training of experts: sparse levels come closer to the dense model, which stays; a run that was cut off goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint

from skipstone.api import export
from skipstone.distill import ExpertTraining, plan_expert_training, train_experts
from skipstone.distill.own_texts import own_texts
from skipstone.errors import ConfigError, OutputError, UnsupportedModel
from skipstone.runtime.bundle import SPARSE, Bundle
from skipstone.runtime.engine import Feed, Model, Part

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256}
FEW = ExpertTraining(steps=24, tokens=1500)
TOKEN_IDS = list(range(3, 23))


@pytest.fixture(scope="module")
def bundle(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carved")
    return export(make_checkpoint("llama", **SIZES), folder / "out", experts="8", precision="fp32")


@pytest.fixture(scope="module")
def trained(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("trained") / "out"
    reports = train_experts(plan_expert_training(bundle, target, training=FEW))
    assert [report.share for report in reports] == [0.75, 0.5, 0.25]
    assert all(report.kept for report in reports)
    assert sum(report.kl_after / report.kl_before for report in reports) < 2.97
    return target


def logits(bundle: Path, share: str | None) -> np.ndarray:
    model = Model.open(bundle)
    entry = model.manifest.experts
    assert entry is not None
    part = Part() if share is None else Part(variant=SPARSE, active=entry.levels[share].active)
    feed = Feed.of(TOKEN_IDS, rows=range(len(TOKEN_IDS)))
    return model.new_workspace(context_length=32).call(feed, part).run(feed).copy()


def files_of(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}


def test_all_experts_together_stay_the_dense_model(bundle: Path, trained: Path) -> None:
    before, after = files_of(bundle), files_of(trained)
    assert {name for name in before if before[name] != after[name]} == {"stage-00.sparse.onnx", "skipstone.json"}
    assert np.array_equal(logits(trained, None), logits(bundle, None))
    scale = np.abs(logits(bundle, None)).max()
    np.testing.assert_allclose(logits(trained, "1"), logits(bundle, None), atol=1e-5 * scale)
    assert np.abs(logits(trained, "0.5") - logits(bundle, "0.5")).max() > 1e-3 * scale


def test_the_manifest_has_the_kl_of_each_level(trained: Path) -> None:
    entry = Bundle.open(trained).manifest.experts
    assert entry is not None
    losses = [entry.levels[share].kl for share in ("0.75", "0.5", "0.25")]
    assert losses == sorted(losses, key=lambda loss: loss or 0)
    assert None not in losses
    Bundle.open(trained).verify()


@pytest.mark.parametrize("family", ["olmo2", "qwen3"])
def test_a_trained_bundle_can_be_trained_on(family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    options: dict[str, Any] = {"experts": "8", "precision": "int8", "exits": "1", "cache": "int8", "distill": True}
    place = export(make_checkpoint(family, **SIZES), tmp_path / "carved", **options)
    for name in ("once", "twice"):
        reports = train_experts(plan_expert_training(place, tmp_path / name, training=FEW))
        assert np.array_equal(logits(tmp_path / name, None), logits(place, None))
        gained = sum(report.kl_after / report.kl_before for report in reports) < len(reports)
        assert {report.kept for report in reports} == {gained}
        place = tmp_path / name


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Killed])
def test_a_run_that_was_cut_off_gives_the_same_bytes(
    kind: type[BaseException], bundle: Path, trained: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"

    def cut(step: int, loss: float) -> None:
        if step == 11:
            raise kind

    with pytest.raises(kind):
        train_experts(plan_expert_training(bundle, target, training=FEW), on_progress=cut, save_every_s=0)
    assert not target.exists()
    plan = plan_expert_training(bundle, target, training=FEW)
    assert 10 <= plan.first_step <= 11
    train_experts(plan)
    assert files_of(target) == files_of(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_seed_decides(bundle: Path, trained: Path, tmp_path: Path) -> None:
    train_experts(
        plan_expert_training(bundle, tmp_path / "other", training=ExpertTraining(steps=24, tokens=1500, seed=1))
    )
    graphs = [files_of(place)["stage-00.sparse.onnx"] for place in (trained, tmp_path / "other")]
    assert graphs[0] != graphs[1]


def test_a_run_of_other_settings_is_not_gone_on_with(bundle: Path, tmp_path: Path) -> None:
    plan = plan_expert_training(bundle, tmp_path / "out", training=FEW)
    plan.run.save({"step": 3, "windows": []})
    with pytest.raises(ConfigError, match="steps was 24, is 25"):
        plan_expert_training(bundle, tmp_path / "out", training=ExpertTraining(steps=25, tokens=1500))
    assert plan_expert_training(bundle, tmp_path / "out", training=FEW, restart=True).first_step == 0


def test_without_a_gain_the_experts_stay(bundle: Path, tmp_path: Path) -> None:
    wild = ExpertTraining(steps=1, tokens=1500, learning_rate=30.0)
    reports = train_experts(plan_expert_training(bundle, tmp_path / "out", training=wild))
    assert not any(report.kept for report in reports)
    assert files_of(tmp_path / "out")["stage-00.sparse.onnx"] == files_of(bundle)["stage-00.sparse.onnx"]


def test_a_text_can_be_given(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("def add(self): " * 400, encoding="utf-8")
    training = ExpertTraining(steps=3, active=0.5)
    plan = plan_expert_training(bundle, tmp_path / "out", text=file, training=training)
    assert train_experts(plan, on_text=lambda num_tokens: pytest.fail("nothing is to be written"))


def test_texts_of_its_own_depend_on_the_seed(bundle: Path) -> None:
    model = Model.open(bundle)
    first, again, other = (own_texts(model, 300, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert sum(map(len, first)) >= 300


def test_a_graph_that_torch_computes_otherwise_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.distill import operators

    monkeypatch.setitem(operators.OPERATORS, "QuickGelu", lambda _, x: x.relu())
    with pytest.raises(UnsupportedModel, match="torch computes this llama otherwise"):
        train_experts(plan_expert_training(bundle, tmp_path / "out", training=FEW))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_refused_before_any_work(
    bundle: Path, trained: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = export(make_checkpoint("llama", **SIZES), tmp_path / "dense", precision="fp32")
    with pytest.raises(ConfigError, match="no experts to train"):
        plan_expert_training(dense, tmp_path / "out")
    with pytest.raises(OutputError, match="exists"):
        plan_expert_training(bundle, trained)
    with pytest.raises(OutputError, match="the bundle that is read"):
        plan_expert_training(bundle, bundle, restart=True)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("skipstone.train.head.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install skipstone\[train\]"):
        plan_expert_training(bundle, tmp_path / "out")


@pytest.mark.parametrize(
    "settings", [{"active": 1.0}, {"active": 0.0}, {"steps": 0}, {"tokens": 1}, {"learning_rate": 0.0}, {"threads": 0}]
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must"):
        ExpertTraining(**settings)
