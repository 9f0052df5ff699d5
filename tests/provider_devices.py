"""Devices of a provider for tests: one whose provider is the processor's own, and the real ones where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort
import pytest

from skipstone.devices import Capability, Device, Hardware, open_device
from skipstone.devices.provider_device import ProviderDevice
from skipstone.errors import DeviceError

WEBGPU = "WebGpuExecutionProvider"
PROVIDER = "CPUExecutionProvider"
SOFTWARE_DRIVER = "SKIPSTONE_SWIFTSHADER"


def open_on_processor(graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=[PROVIDER])


def stand_in(*, takes_offsets: bool, ignores_positions: bool = False) -> ProviderDevice:
    """Return a device with the memory of a provider that is really the processor: CUDA's takes offsets, WebGPU none."""
    capabilities = (Capability.SEVERAL_ROWS, Capability.TREE_ATTENTION, Capability.SHARED_CACHE, Capability.INT8_CACHE)
    return ProviderDevice(
        name="stand-in",
        provider=PROVIDER,
        kind="cpu",
        index=0,
        threads=1,
        capabilities=frozenset({*capabilities, Capability.INT4, Capability.DYNAMIC_SHAPES}),
        targets=("ort",),
        hardware=Hardware("gpu", "stand-in"),
        open_graph=open_on_processor,
        memory_left=lambda: (None, None),
        takes_offsets=takes_offsets,
        fails_silently=not takes_offsets,
        ignores_positions=ignores_positions,
    )


def _register_plug_in() -> None:
    """Let onnxruntime look for drivers again: another test of this process may have asked before there was one."""
    if not any(device.ep_name == WEBGPU for device in ort.get_ep_devices()):
        from onnxruntime_ep_webgpu import get_library_path

        ort.register_execution_provider_library("webgpu of tests", get_library_path())


@contextmanager
def webgpu() -> Iterator[Device]:
    """Yield WebGPU on a GPU, or on the driver in software that `.ci/chromium` brings; skips the test without either."""
    if find_spec("onnxruntime_ep_webgpu") is None:
        pytest.skip("onnxruntime-ep-webgpu is not installed: pip install 'skipstone[webgpu]'")
    with pytest.MonkeyPatch.context() as patch:
        if driver := os.environ.get(SOFTWARE_DRIVER):
            patch.setenv("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")
            patch.setenv("VK_ICD_FILENAMES", driver)
            _register_plug_in()
        try:
            device = open_device("webgpu")
        except DeviceError as error:
            pytest.skip(f"no driver of WebGPU: {error}; `source .ci/chromium` and call skipstone_chromium for one")
        yield device


def cuda() -> Device:
    """Return the first NVIDIA GPU; skips the test without one."""
    try:
        return open_device("cuda")
    except DeviceError as error:
        pytest.skip(f"no CUDA: {error}")
