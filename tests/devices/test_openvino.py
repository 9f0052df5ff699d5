"""OpenVINO: opened where its wheel is installed, which replaces onnxruntime, so elsewhere by its refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from test_contract import bundles, by_verdict

from skipstone.check import ContractBundles
from skipstone.devices import HardwareDevice, TargetedDevice, open_device
from skipstone.devices.openvino import OpenVinoDevice
from skipstone.devices.probe import DOUBLING
from skipstone.errors import DeviceError

__all__ = ["bundles"]
PROVIDER = OpenVinoDevice.provider
IS_HERE = PROVIDER in ort.get_available_providers()
here = pytest.mark.skipif(not IS_HERE, reason="onnxruntime-openvino is not installed in place of onnxruntime")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "doubling.onnx").write_bytes(DOUBLING)
    return tmp_path / "doubling.onnx"


@pytest.mark.skipif(IS_HERE, reason="onnxruntime-openvino is installed")
@pytest.mark.parametrize("name", ["openvino", "openvino:gpu"])
def test_without_its_wheel_it_says_what_brings_it(name: str) -> None:
    with pytest.raises(DeviceError, match=f"{PROVIDER} is not installed here; .* pip install onnxruntime-openvino"):
        open_device(name)


def test_an_unknown_unit_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="there is no openvino:tpu; known are openvino:cpu, openvino:gpu"):
        open_device("openvino:tpu")


@pytest.mark.parametrize(("unit", "name", "kind"), [("cpu", "openvino", "processor"), ("npu", "openvino:npu", "npu")])
def test_it_says_what_it_runs_on_and_which_bundles_it_takes(unit: str, name: str, kind: str) -> None:
    device = OpenVinoDevice(unit=unit, threads=1)
    assert isinstance(device, HardwareDevice) and isinstance(device, TargetedDevice)
    assert (device.name, device.hardware.kind, device.targets[0]) == (name, kind, "ort")
    buffer = device.resident((2,), np.float32)
    buffer.write(3)
    assert buffer.read().tolist() == [3, 3]


def test_a_provider_that_does_not_start_is_an_error_and_no_silent_fallback(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = OpenVinoDevice(unit="gpu", threads=1)
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **k: SimpleNamespace(get_providers=lambda: ["CPU"]))
    with pytest.raises(
        DeviceError, match=r"device openvino:gpu is broken here: .* does not start, and onnxruntime took"
    ):
        device.open_session(graph)

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no device\nGPU")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(DeviceError, match=r"doubling\.onnx: OpenVINO cannot open this graph on GPU: no device GPU"):
        device.open_session(graph)


@here
def test_it_keeps_the_contract(bundles: ContractBundles) -> None:
    assert by_verdict(open_device("openvino"), bundles, "failed") == {}
    assert [*by_verdict(open_device("openvino"), bundles, "refused")] == ["int8 cache"]
