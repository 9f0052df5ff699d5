"""The device `auto`: the best that works, said with the reasons; and what is tried of a device before it is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from skipstone.devices import CpuDevice, Device, Hardware, choose_device, open_device
from skipstone.devices.probe import DOUBLING, probe
from skipstone.errors import DeviceError
from skipstone.runtime.engine import Model

MODULE = """
from test_auto import DEVICES

def open_quick(*, threads):
    return DEVICES.quick()

def open_other(*, threads):
    return DEVICES.other()
"""


class QuickDevice(CpuDevice):
    """A device with hardware of its own."""

    name = "quick"
    hardware = Hardware("gpu", "A quick GPU")
    targets = ("ort", "plain")


class BrokenDevice(QuickDevice):
    def open_session(self, path: Path) -> object:  # type: ignore[override]
        raise RuntimeError("the driver\n is too old")


class PlainDevice(QuickDevice):
    name, targets = "plain-only", ("plain", "xnnpack")


class SoftDevice(QuickDevice):
    hardware = Hardware("processor", "software adapter")


def quick() -> Device:
    return QuickDevice(threads=1)


def missing() -> Device:
    raise DeviceError("there is no such GPU here")


DEVICES = SimpleNamespace(quick=quick, other=quick)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let another package bring the devices `quick` and `other`, and return what opens them."""
    folder = tmp_path / "quick-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: quick\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[skipstone.devices]\nother = quick_device:open_other\nquick = quick_device:open_quick\n"
    )
    (tmp_path / "quick_device.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DEVICES, "quick", quick)
    monkeypatch.setattr(DEVICES, "other", missing)
    return DEVICES


@pytest.mark.usefixtures("devices")
def test_auto_takes_the_first_with_hardware_of_its_own_and_says_why_not_the_others() -> None:
    choice = choose_device("auto")
    assert choice.device.name == "quick" == open_device("auto").name == open_device(" AUTO").name
    assert choice.told is not None and choice.told.startswith("device auto takes quick, A quick GPU; not ")
    assert "not other: there is no such GPU here" in choice.told
    assert choose_device("quick").told is None
    assert choose_device(" AUTO ").told == choice.told


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: BrokenDevice(threads=1), "quick: device quick is here, but broken: the driver is too old"),
        (lambda: SoftDevice(threads=1), "quick: it runs on the processor too"),
        (missing, "quick: there is no such GPU here"),
    ],
)
def test_auto_falls_back_to_the_processor_and_says_so(
    devices: SimpleNamespace, make: Callable[[], Device], reason: str
) -> None:
    devices.quick = make
    choice = choose_device("auto", threads=1)
    assert (choice.device.name, choice.device.threads) == ("cpu", 1)
    assert (
        choice.fell_back
        and choice.told is not None
        and choice.told.startswith("device auto takes cpu; not ")
        and reason in choice.told
    )


def test_no_other_name_falls_back(devices: SimpleNamespace, tiny: Model) -> None:
    devices.quick = lambda: BrokenDevice(threads=1)
    with pytest.raises(RuntimeError, match="the driver"):
        Model.open(tiny.bundle.path, device="quick")
    with pytest.raises(DeviceError, match="there is no such GPU here"):
        Model.open(tiny.bundle.path, device="other")


def test_auto_has_no_unit() -> None:
    with pytest.raises(DeviceError, match="'auto:1' has a unit, but auto chooses itself"):
        open_device("auto:1")


def test_a_bundle_of_another_target_is_refused_with_the_command_and_auto_looks_further(
    devices: SimpleNamespace, tiny: Model
) -> None:
    devices.quick = lambda: PlainDevice(threads=1)
    told = (
        "made for the target ort, and device plain-only takes plain and xnnpack; make one with "
        "`skipstone export CHECKPOINT -o OUT --target plain`"
    )
    with pytest.raises(DeviceError, match=told):
        Model.open(tiny.bundle.path, device="quick")
    with pytest.warns(RuntimeWarning, match="device auto takes cpu; not "):
        model = Model.open(tiny.bundle.path, device="auto")
    assert model.device.name == "cpu" and model.device_told is not None and told in model.device_told
    assert Model.open(tiny.bundle.path).device_told is None


def test_the_graph_that_devices_are_tried_with_doubles() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert onnx.load_from_string(DOUBLING) == model
    probe(open_device())


def test_a_device_that_computes_something_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    device = QuickDevice(threads=1)
    monkeypatch.setattr("skipstone.devices.probe.NUMBERS", (1.0, float("nan")))
    with pytest.raises(DeviceError, match="device quick is here, but broken: it gave"):
        probe(device)
