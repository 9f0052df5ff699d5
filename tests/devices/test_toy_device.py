"""A device from outside of the package, with memory of its own: one file is all that it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import ArrayLike, DTypeLike, NDArray

import skipstone.runtime
from skipstone import LanguageModel
from skipstone.devices import open_device
from skipstone.devices.buffer import Place
from skipstone.runtime.engine import Model


class ToyBuffer:
    """Memory that the host does not see: it goes in and out by copies."""

    def __init__(self, memory: NDArray[Any]) -> None:
        self.memory, self.shape, self.dtype = memory, memory.shape, memory.dtype

    def read(self, at: Place = ...) -> NDArray[Any]:
        return self.memory[at].copy()

    def write(self, values: ArrayLike, at: Place = ...) -> None:
        self.memory[at] = values

    def view(self, at: Place) -> ToyBuffer:
        return ToyBuffer(self.memory[at])

    def flat(self) -> ToyBuffer:
        return ToyBuffer(self.memory.reshape(-1))

    def move(self, source: Place, target: Place) -> None:
        self.memory[target] = self.memory[source]

    def copy_from(self, other: ToyBuffer, at: Place) -> None:
        self.memory[at] = other.memory[at]


class ToyBinding:
    def __init__(self, session: ort.InferenceSession) -> None:
        self._session, self._inputs, self._outputs = session, dict[str, NDArray[Any]](), dict[str, ToyBuffer]()

    def read_from(self, name: str, buffer: ToyBuffer, shape: tuple[int, ...] | None = None) -> None:
        memory = buffer.memory
        self._inputs[name] = memory if shape is None else memory.reshape(-1)[: np.prod(shape)].reshape(shape)

    def write_to(self, name: str, buffer: ToyBuffer) -> None:
        self._outputs[name] = buffer

    def run(self) -> None:
        feeds = {name: memory.copy() for name, memory in self._inputs.items()}
        for buffer, result in zip(self._outputs.values(), self._session.run([*self._outputs], feeds), strict=True):
            buffer.write(result)


class ToyDevice:
    name, provider = "toy", "CPUExecutionProvider"
    capabilities = frozenset({"several-rows", "tree-attention", "int4", "dynamic-shapes"})

    def __init__(self) -> None:
        self.threads, self._host = 1, open_device()

    def open_session(self, path: Path) -> ort.InferenceSession:
        return self._host.open_session(path)

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> ToyBuffer:
        return self.zeros(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> ToyBuffer:
        return ToyBuffer(np.zeros(shape, dtype))

    def resident(self, shape: Sequence[int], dtype: DTypeLike) -> ToyBuffer:
        return self.allocate(shape, dtype)

    def bind(self, session: ort.InferenceSession) -> ToyBinding:
        return ToyBinding(session)


def open_toy(*, threads: int | None) -> ToyDevice:
    return ToyDevice()


@pytest.fixture
def toy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toy-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: toy\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[skipstone.devices]\ntoy = test_toy_device:open_toy\n")
    (tmp_path / "test_toy_device.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("toy_package")
@pytest.mark.parametrize("decode", ["plain", "ngram", "lookahead", "self"])
def test_it_writes_the_text_of_the_processor(tiny_stages: Model, decode: str) -> None:
    toy = LanguageModel(Model.open(tiny_stages.bundle.path, device="toy"))
    assert toy.runtime.device.name == "toy"
    wanted = LanguageModel(tiny_stages).generate("def add(first", decode="plain", max_new_tokens=24)
    assert toy.generate("def add(first", decode=decode, max_new_tokens=24).token_ids == wanted.token_ids
    assert list(toy.runtime.sessions.graphs) != list(tiny_stages.sessions.graphs)


WORDS = re.compile(r"\.numpy\(|ortvalue|ctypes\.data|io_?binding|['\"]cpu['\"]", re.IGNORECASE)


def test_memory_is_made_and_moved_by_devices_alone() -> None:
    folder = Path(skipstone.runtime.__file__).parent
    files = [*folder.rglob("*.py")]
    assert len(files) > 50
    lines = [(file.name, line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(name, line) for name, line in lines if WORDS.search(line)] == []
