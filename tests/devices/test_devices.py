"""Devices: opened by name, honest about threads and about what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipstone.devices import Device, catalog, open_device, physical_cores
from skipstone.devices.cpu_memory import CpuBinding
from skipstone.devices.doors import registered_devices
from skipstone.errors import ConfigError, DeviceError


@pytest.fixture
def doubling_graph(tmp_path: Path) -> Path:
    """Return the file of a graph with y = x + x for x of any length."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    path = tmp_path / "doubling.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def run_python(*lines: str) -> str:
    """Run the lines in a process of their own, which has its own thread pool, and return what they print."""
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_graph_runs_on_buffers_of_the_device(doubling_graph: Path) -> None:
    device = open_device()
    session = device.open_session(doubling_graph)
    x, y = device.allocate((3,), "float32"), device.allocate([3], np.float32)
    x.write([1, 2, 3])
    binding = device.bind(session)
    binding.read_from("x", x)
    binding.write_to("y", y)
    binding.run()
    assert y.read().tolist() == [2, 4, 6]
    binding.read_from("x", x, (2,))
    binding.write_to("y", y.view(slice(2)))
    x.write(5, slice(1))
    binding.run()
    assert y.read().tolist() == [10, 4, 6]


def test_parts_of_a_buffer_are_views_of_its_memory() -> None:
    device = open_device()
    buffer, other = device.zeros((2, 3), "int32"), device.allocate((2, 3), "int32")
    buffer.view(slice(1, 2)).write([[4, 5, 6]])
    buffer.flat().write(1, slice(2))
    assert buffer.read().tolist() == [[1, 1, 0], [4, 5, 6]]
    buffer.move(np.s_[:, [1, 2]], np.s_[:, 0:2])
    other.write(0)
    other.copy_from(buffer, np.s_[:, :2])
    assert other.read().tolist() == [[1, 0, 0], [5, 6, 0]]
    assert (buffer.shape, buffer.dtype) == ((2, 3), np.dtype("int32"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int64"])
def test_an_allocated_buffer_has_the_shape_and_type_asked_for(dtype: str) -> None:
    buffer = open_device().allocate((2, 0, 3), dtype)
    assert buffer.shape == (2, 0, 3)
    assert buffer.dtype == dtype


@pytest.mark.parametrize("make", ["allocate", "zeros", "resident"])
def test_too_large_a_buffer_is_a_device_error(make: str) -> None:
    with pytest.raises(DeviceError, match="no memory for a float32 buffer"):
        getattr(open_device(), make)((10**9, 10**6), "float32")


def test_a_call_that_memory_does_not_suffice_for_says_what_helps() -> None:
    def run_with_iobinding(binding: object, options: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : while running a node: std::bad_alloc")

    session = SimpleNamespace(io_binding=lambda: None, run_with_iobinding=run_with_iobinding)
    with pytest.raises(DeviceError, match="not enough memory for a model call; free some, give a smaller --context"):
        CpuBinding(session).run()  # type: ignore[arg-type]


def test_the_default_device_uses_every_physical_core() -> None:
    code = (
        "from skipstone.devices import open_device, physical_cores",
        "print(open_device().threads == physical_cores())",
    )
    assert run_python(*code) == "True"


def test_a_missing_or_damaged_graph_is_a_device_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match=r"none\.onnx is missing"):
        open_device().open_session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_text("not a graph")
    with pytest.raises(DeviceError, match=r"bad\.onnx: onnxruntime \S+ cannot open this graph: .+") as caught:
        open_device().open_session(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_memory_does_not_suffice_for_says_what_helps(
    doubling_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: object, **options: object) -> None:
        raise RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc"
        )

    monkeypatch.setattr("onnxruntime.InferenceSession", no_memory)
    with pytest.raises(DeviceError, match="not enough memory to open this graph; free some, give a smaller --context"):
        open_device().open_session(doubling_graph)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_every_session_has_as_many_threads_as_its_device(doubling_graph: Path) -> None:
    printed = run_python(
        "import os; from pathlib import Path; from skipstone.devices import open_device",
        f"path, count = Path({str(doubling_graph)!r}), lambda: len(os.listdir('/proc/self/task'))",
        "for threads in (4, 1, 2):",
        "    before, device = count(), open_device(threads=threads)",
        "    sessions = [device.open_session(path) for _ in range(3)]",
        "    print(device.threads, count() - before)",
        "    del sessions",
    )
    assert printed.splitlines() == ["4 9", "1 0", "2 3"]  # the calling thread is one of them


@pytest.mark.parametrize("order", ["device.open_session(path)", "ort.InferenceSession(path)"])
def test_sessions_of_other_parts_of_the_program_work_beside_ours_whoever_is_first(
    doubling_graph: Path, order: str
) -> None:
    printed = run_python(
        "import numpy as np, onnxruntime as ort; from pathlib import Path",
        "from skipstone.devices import open_device",
        f"path, device = Path({str(doubling_graph)!r}), open_device(threads=2)",
        f"sessions = [{order}, device.open_session(path), ort.InferenceSession(path), device.open_session(path)]",
        "print([session.run(None, {'x': np.ones(1, 'float32')})[0].tolist() for session in sessions])",
    )
    assert printed == "[[2.0], [2.0], [2.0], [2.0]]"


def test_a_pool_that_somebody_else_has_set_is_reported_not_ignored(doubling_graph: Path) -> None:
    printed = run_python(
        "import onnxruntime; onnxruntime.set_global_thread_pool_sizes(2, 1)",
        "from pathlib import Path; from skipstone.devices import open_device",
        "from skipstone.errors import DeviceError",
        f"try: open_device(threads=2).open_session(Path({str(doubling_graph)!r}))",
        "except DeviceError as error: print(error)",
    )
    assert printed.startswith("another part of this program has already set onnxruntime's thread pool")
    assert "\n" not in printed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_of_a_process_that_has_used_the_device_drops_its_sessions_and_ends(doubling_graph: Path) -> None:
    printed = run_python(
        "import gc, os, sys, time, numpy as np; from pathlib import Path",
        "from skipstone.devices import open_device",
        f"device, path = open_device(threads=2), Path({str(doubling_graph)!r})",
        "sessions = [device.open_session(path), device.open_session(path)]",
        "def run(session): return session.run(None, {'x': np.ones(1, 'float32')})[0].tolist()",
        "run(sessions[0])",
        "if (child := os.fork()) == 0:",
        "    sessions.append(device.open_session(path))",
        "    print([run(session) for session in sessions], flush=True)",
        "    sessions.pop(0)",
        "    gc.collect()",
        "    sys.exit(3)",
        "deadline, ended = time.monotonic() + 20, 0",
        "while not ended and time.monotonic() < deadline:",
        "    (ended, status), _ = os.waitpid(child, os.WNOHANG), time.sleep(0.01)",
        "if not ended: os.kill(child, 9)",
        "print(os.waitstatus_to_exitcode(status) if ended else 'hangs')",
    )
    assert printed.splitlines() == ["[[2.0], [2.0], [2.0]]", "3"]


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads must be at least 1, got {threads}"):
        open_device(threads=threads)


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        DeviceError, match=r"device 'abacus' is not known; known are (?=.*cpu)(?=.*cuda)(?=.*webgpu).*auto"
    ):
        open_device("abacus")


@pytest.mark.parametrize(("name", "near"), [("cud", "cuda"), ("web-gpu", "webgpu"), ("open_vino:gpu", "openvino")])
def test_an_unknown_device_is_answered_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(DeviceError, match=f"is not known; did you mean {near}\\? known are "):
        open_device(name)


@pytest.mark.parametrize("name", ["", ":1", "cuda:", "cuda:0:1"])
def test_a_name_with_a_missing_part_is_no_name(name: str) -> None:
    with pytest.raises(DeviceError, match="is no name; give one such as cpu, or cuda:1"):
        open_device(name)


def test_the_processor_has_no_units() -> None:
    assert open_device("CPU:0").name == "cpu"
    with pytest.raises(DeviceError, match="there is one cpu, no cpu:1"):
        open_device("cpu:1")


def test_every_device_of_the_catalog_opens_or_says_why_not() -> None:
    for info in catalog():
        if info.available:
            device: Device = open_device(info.name)
            assert (device.name, device.provider, device.capabilities) == (info.name, info.provider, info.capabilities)
            assert (info.why, info.install) == (None, None)
        else:
            with pytest.raises(DeviceError, match=re.escape(info.why or "?")):
                open_device(info.name)


def test_the_processor_can_always_be_opened_and_comes_first() -> None:
    first = catalog()[0]
    assert (first.name, first.available, first.threads) == ("cpu", True, physical_cores())


TOY_NPU = """
from types import SimpleNamespace

def open_npu(*, threads, unit=None):
    return SimpleNamespace(
        name="npu", provider="ToyProvider", threads=threads, unit=unit, capabilities=frozenset({"int4"}),
        hardware=SimpleNamespace(kind="npu", name="A toy"), total_bytes=lambda: 8,
    )
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the entry point file of an installed package, to be filled in."""
    (tmp_path / "toy_npu-1.0.dist-info").mkdir()
    (tmp_path / "toy_npu-1.0.dist-info" / "METADATA").write_text("Name: toy-npu\nVersion: 1.0\n")
    (tmp_path / "toy_npu.py").write_text(TOY_NPU)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "toy_npu-1.0.dist-info" / "entry_points.txt"


def test_another_package_can_bring_a_device(plug_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in.write_text("[skipstone.devices]\nnpu = toy_npu:open_npu\n")
    npu = open_device("npu:second", threads=5)
    assert (npu.name, npu.threads, npu.unit) == ("npu", 5, "second")
    broken = next(info for info in catalog() if info.name == "npu")
    assert not broken.available and "device npu is here, but broken" in (broken.why or "")
    monkeypatch.setattr(sys.modules["skipstone.devices.catalog"], "probe", lambda device: None)
    info = next(info for info in catalog() if info.name == "npu")
    assert (info.provider, info.hardware, info.free_bytes, info.total_bytes) == ("ToyProvider", "A toy", None, 8)


def test_a_device_of_another_package_that_cannot_work_says_why_and_disturbs_no_other(plug_in: Path) -> None:
    plug_in.write_text("[skipstone.devices]\nnpu = toy_npu:nothing\n")
    with pytest.raises(DeviceError, match=r"device npu cannot be loaded from toy_npu:nothing: .*nothing"):
        open_device("npu")
    infos = {info.name: info for info in catalog()}
    assert "cannot be loaded" in (infos["npu"].why or "") and infos["cpu"].available


def test_a_name_that_means_something_else_cannot_be_registered(plug_in: Path) -> None:
    plug_in.write_text("[skipstone.devices]\nauto = toy_npu:open_npu\n")
    with pytest.raises(
        DeviceError, match="toy_npu:open_npu cannot register a device as 'auto': the name has a meaning"
    ):
        registered_devices()


def test_two_devices_of_one_name_are_refused(plug_in: Path) -> None:
    plug_in.write_text("[skipstone.devices]\ncpu = toy_npu:open_npu\n")
    with pytest.raises(DeviceError, match=r"the device cpu is registered twice, by .* and toy_npu:open_npu"):
        registered_devices()
