"""The cost curve's file: measured once, read ever after, and never in the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import skipstone.runtime.costs.profile as profile_module
from skipstone.devices import CpuDevice
from skipstone.runtime.costs import CostCurve, cost_curve, profile_path, save_curve
from skipstone.runtime.engine import Model, SharedStores

CURVE = CostCurve(rows=(1, 2), contexts=(64,), seconds=((0.001, 0.00125),))
OTHER = CostCurve(rows=(1, 2), contexts=(64,), seconds=((0.002, 0.0025),))
OpenModel = Callable[..., Model]


@pytest.fixture
def opened(tiny: Model, tmp_path: Path) -> OpenModel:
    """Return the tiny model as a new process opens it, its profiles in a folder of the test."""

    def open_again(profiles: Path | None = tmp_path / "profiles") -> Model:
        model = copy.copy(tiny)
        model.shared, model.profiles = SharedStores(), profiles
        return model

    return open_again


def never(model: Model) -> CostCurve:
    raise AssertionError("the file knows the curve")


def test_the_curve_is_measured_once_and_read_later(opened: OpenModel) -> None:
    first = opened()
    assert cost_curve(first, measure=lambda model: CURVE) == CURVE
    assert cost_curve(first, measure=never) == CURVE
    assert cost_curve(opened(), measure=never) == CURVE


def test_without_a_folder_the_curve_lives_as_long_as_the_model(opened: OpenModel) -> None:
    model = opened(None)
    assert profile_path(model) is None
    assert cost_curve(model, measure=lambda model: CURVE) == CURVE
    assert cost_curve(model, measure=never) == CURVE
    assert cost_curve(opened(None), measure=lambda model: OTHER) == OTHER


def test_a_curve_saved_on_wish_replaces_the_one_before(opened: OpenModel) -> None:
    assert save_curve(opened(), CURVE) == profile_path(opened())
    save_curve(opened(), OTHER)
    assert cost_curve(opened(), measure=never) == OTHER


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"rows": [1]}', b'{"rows": [1], "contexts": [0], "seconds": [[0]]}'],
)
def test_a_damaged_file_is_measured_again_and_mended(opened: OpenModel, damage: bytes) -> None:
    path = save_curve(opened(), CURVE)
    assert path is not None
    path.write_bytes(damage)
    assert cost_curve(opened(), measure=lambda model: OTHER) == OTHER
    assert cost_curve(opened(), measure=never) == OTHER


def test_no_half_file_is_left_beside_the_whole_one(opened: OpenModel) -> None:
    path = save_curve(opened(), CURVE)
    assert path is not None
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("kind", ["a file in its place", "a name that is too long"])
def test_a_folder_that_cannot_be_written_is_no_error(opened: OpenModel, tmp_path: Path, kind: str) -> None:
    (tmp_path / "taken").touch()
    profiles = tmp_path / ("taken" if kind == "a file in its place" else "x" * 300) / "profiles"
    model = opened(profiles)
    assert cost_curve(model, measure=lambda model: CURVE) == CURVE
    assert save_curve(model, CURVE) is None
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_file_depends_on_all_that_changes_the_costs(
    opened: OpenModel, tiny_stages: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    paths = {profile_path(model)}
    other_threads, other_device, other_bundle = opened(), opened(), opened()
    other_threads.device = CpuDevice(threads=model.device.threads + 1)
    other_device.device = SimpleNamespace(name="other", threads=model.device.threads)  # type: ignore[assignment]
    other_bundle.manifest = tiny_stages.manifest
    paths |= {profile_path(changed) for changed in (other_threads, other_device, other_bundle)}
    monkeypatch.setattr(profile_module, "onnxruntime", SimpleNamespace(__version__="0.0"))
    paths.add(profile_path(model))
    monkeypatch.setattr(profile_module, "_processor", lambda: "another one")
    paths.add(profile_path(model))
    assert len(paths) == 6 and None not in paths


def test_the_same_model_has_the_same_file_in_every_process(opened: OpenModel) -> None:
    assert profile_path(opened()) == profile_path(opened())
