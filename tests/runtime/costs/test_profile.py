"""The cost curve's file: measured once, read ever after, and never in the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from skipstone.devices import CpuDevice
from skipstone.runtime.costs import CostCurve, cost_curve, costs_note
from skipstone.runtime.engine import Model, SharedStores, device_note

CURVE = CostCurve(rows=(1, 2), contexts=(64,), seconds=((0.001, 0.00125),))
OTHER = CostCurve(rows=(1, 2), contexts=(64,), seconds=((0.002, 0.0025),))
OpenModel = Callable[..., Model]


@pytest.fixture
def opened(tiny: Model, tmp_path: Path) -> OpenModel:
    """Return the tiny model as a new process opens it, its profiles in a folder of the test."""

    def open_again(profiles: Path | None = tmp_path / "profiles") -> Model:
        model = copy.copy(tiny)
        model.shared, model.profiles, model.sessions = SharedStores(), profiles, copy.copy(tiny.sessions)
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
    assert cost_curve(model, measure=lambda model: CURVE) == CURVE
    assert cost_curve(model, measure=never) == CURVE
    assert cost_curve(opened(None), measure=lambda model: OTHER) == OTHER


def test_a_curve_saved_on_wish_replaces_the_one_before(opened: OpenModel, tmp_path: Path) -> None:
    note = costs_note(opened())
    for curve in (CURVE, OTHER):
        assert note.save(curve, note.path(tmp_path / "profiles"))
    assert cost_curve(opened(), measure=never) == OTHER


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"rows": [1]}', b'{"rows": [1], "contexts": [0], "seconds": [[0]]}'],
)
def test_a_damaged_file_is_measured_again_and_mended(opened: OpenModel, tmp_path: Path, damage: bytes) -> None:
    assert cost_curve(opened(), measure=lambda model: CURVE) == CURVE
    (file,) = (tmp_path / "profiles").iterdir()
    file.write_bytes(damage)
    assert cost_curve(opened(), measure=lambda model: OTHER) == OTHER
    assert cost_curve(opened(), measure=never) == OTHER


def test_the_file_depends_on_all_that_changes_the_costs(opened: OpenModel, tiny_stages: Model, tmp_path: Path) -> None:
    model, other_threads, other_device, other_bundle = opened(), opened(), opened(), opened()
    other_threads.sessions.device = CpuDevice(threads=model.device.threads + 1)
    other_device.sessions.device = SimpleNamespace(name="other", threads=model.device.threads)  # type: ignore[assignment]
    other_bundle.sessions.manifest = tiny_stages.manifest
    notes = [costs_note(changed) for changed in (model, other_threads, other_device, other_bundle)]
    for change in ({"processor": "another one"}, {"onnxruntime_version": "0.0"}):
        notes += [device_note(CostCurve, model.sessions, name="costs", what="cost curve", **change)]
    assert len({note.path(tmp_path) for note in notes}) == 6
    assert costs_note(opened()).path(tmp_path) == costs_note(opened()).path(tmp_path)
