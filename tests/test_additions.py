"""Common additions of CONTRIBUTING.md, each done from outside of the package, in one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from skipstone.bundled import BUNDLED

FAMILY = """
from skipstone.exporters.families import LLAMA_NAMES, Family, names_of

NAMES = names_of("{prefix}layers.{layer}.{tensor}.{kind}", q="query")
FAMILY = Family(model_type="toy", names={**LLAMA_NAMES, **NAMES}, prefixes=("toy.",))
"""
DRAFTER = """
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft


class ParrotDrafter(Drafter):
    name = "parrot"

    def propose(self, history, *, limit, min_chance=0.0):
        return Draft.chain([history[-1]] * min(limit, 2), source=self.name)


def open_parrot(context):
    return ParrotDrafter()
"""
DEVICE = """
from skipstone.devices import CpuDevice, open_device


class ToyDevice(CpuDevice):
    name = "toy"


def open_toy(*, threads):
    return ToyDevice(threads=open_device("cpu", threads=threads).threads)
"""
TRANSFORM = """
from skipstone.exporters.transforms import ChangedTensors, Transform


class DoubleLogits(Transform):
    def change(self, architecture, tensors):
        return architecture, DoubledNorm(tensors, architecture.names["final_norm"])


class DoubledNorm(ChangedTensors):
    def __init__(self, source, name):
        super().__init__(source)
        self.name = name

    def read(self, name, shape):
        return super().read(name, shape) * (2 if name == self.name else 1)
"""
ENTRY_POINTS = """
[skipstone.families]
toy = toy_family:FAMILY
[skipstone.drafters]
parrot = toy_drafter:open_parrot
[skipstone.devices]
toy = toy_device:open_toy
"""
SCRIPT = """
import json
import sys
from pathlib import Path

import skipstone
from skipstone.bundled import BUNDLED
from toy_transform import DoubleLogits

out = Path(sys.argv[1])
plain = skipstone.export(BUNDLED["pebble-mini"], out / "plain", precision="fp32")
toy = skipstone.export(out / "checkpoint", out / "toy", precision="fp32")
doubled = skipstone.export(out / "checkpoint", out / "doubled", precision="fp32", transforms=[DoubleLogits()])
model = skipstone.load(doubled, device="toy")
texts = [skipstone.load(plain).generate("def add(a, b):", max_new_tokens=32, decode="plain")]
texts += [model.generate("def add(a, b):", max_new_tokens=32, decode=method) for method in ("plain", "parrot")]
weights = [(folder / "weights.bin").read_bytes() for folder in (plain, toy, doubled)]
print(json.dumps({
    "family": skipstone.load(toy).runtime.manifest.family,
    "has the same weights": [weights[1] == weights[0], weights[2] == weights[0]],
    "device": model.runtime.device.name,
    "texts": [generation.text for generation in texts],
    "drafters": [[*generation.stats.drafters] for generation in texts],
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another package in it, installed as pip does, and a checkpoint of its family."""
    folder = tmp_path_factory.mktemp("outside")
    for name, source in (("family", FAMILY), ("drafter", DRAFTER), ("device", DEVICE), ("transform", TRANSFORM)):
        (folder / f"toy_{name}.py").write_text(source)
    about = folder / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    write_toy_checkpoint(folder / "checkpoint")
    return folder


def write_toy_checkpoint(folder: Path) -> None:
    """Write pebble-mini, its queries and all else under other names."""
    folder.mkdir()
    source = BUNDLED["pebble-mini"]
    config = json.loads((source / "config.json").read_text()) | {"model_type": "toy"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    content = (source / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].replace(b"self_attn.q_proj", b"query").replace(b'"model.', b'"toy.')
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def run(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, in which the other package is installed."""
    paths = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    outcome = run(folder, SCRIPT, folder)
    assert outcome.returncode == 0, outcome.stderr
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


def test_a_family_is_a_row(told: dict[str, Any]) -> None:
    assert told["family"] == "toy" and told["has the same weights"][0]


def test_a_transformation_is_a_class(told: dict[str, Any]) -> None:
    assert not told["has the same weights"][1] and told["texts"][1] == told["texts"][0]


def test_a_drafter_is_a_class_and_a_factory(told: dict[str, Any]) -> None:
    assert told["texts"][2] == told["texts"][0]
    assert "parrot" in told["drafters"][2] and "parrot" not in told["drafters"][1]


def test_a_device_is_a_class_and_a_factory(told: dict[str, Any]) -> None:
    assert told["device"] == "toy"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("toy_family:FAMILY", "the family toy is registered twice, the second time by toy_family:FAMILY"),
        ("toy_family:NAMES", "toy_family:NAMES must be a Family or a tuple of them"),
        ("toy_family:MISSING", "the families of toy_family:MISSING cannot be loaded"),
    ],
)
def test_a_family_that_is_none_or_has_a_taken_name_is_refused(folder: Path, value: str, message: str) -> None:
    (folder / "toy-1.0.dist-info" / "entry_points.txt").write_text(
        f"{ENTRY_POINTS}[skipstone.families]\nother = {value}\n"
    )
    outcome = run(
        folder, "from skipstone.cli import main; main()", "export", folder / "checkpoint", "-o", folder / "no"
    )
    (folder / "toy-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    assert outcome.returncode == 2 and message in outcome.stderr
