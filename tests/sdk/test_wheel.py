"""The wheel alone, in an environment with nothing but what it asks for: no torch, no source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Folders at the root that no build reads.
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "examples", "tests", "docs")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment and a folder to work in, outside the source tree."""

    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        """Return the standard output of a program of the environment, run in its folder."""
        # Without what could lead to packages or files of the caller's; how pip finds packages stays.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        result = subprocess.run(
            [self.folder / "venv/bin" / program, *arguments],
            cwd=self.folder,
            env=variables | {"SKIPSTONE_CACHE": str(self.folder / "cache")},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "venv", with_pip=True)
    return Environment(folder)


@pytest.fixture(scope="module")
def wheel(environment: Environment) -> Path:
    """The wheel that SKIPSTONE_WHEEL names, or one built from a copy of the sources: a build leaves its files there."""
    if stated := os.environ.get("SKIPSTONE_WHEEL"):
        return Path(stated)
    copy = environment.folder / "sources"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES)
    environment.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(copy))
    (built,) = (environment.folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(environment: Environment, wheel: Path) -> Environment:
    environment.run("pip", "install", "--quiet", str(wheel))
    return environment


def test_the_wheel_holds_the_package_its_models_and_its_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"skipstone"}
    for ending in ("skipstone/py.typed", "skipstone/models/pebble/model.safetensors", "licenses/LICENSE"):
        assert any(name.endswith(ending) for name in names), ending


def test_the_base_install_brings_neither_torch_nor_transformers(installed: Environment) -> None:
    look = "import importlib.util as u; print(*[n for n in ('torch', 'transformers') if u.find_spec(n)])"
    assert installed.run("python", "-c", look).split() == []


def test_the_base_install_exports_the_bundled_model_and_runs_it(installed: Environment) -> None:
    installed.run("skipstone", "export", "pebble", "-o", "out")
    answer = json.loads(installed.run("skipstone", "generate", "out", "-p", "import os", "-n", "8", "--json"))
    assert set(answer) == {"text", "token_ids", "prompt_tokens", "finish_reason", "stats"}
    assert answer["text"]
    assert answer["prompt_tokens"] == answer["stats"]["prompt_tokens"] > 0
    assert 0 < len(answer["token_ids"]) == answer["stats"]["new_tokens"] <= 8
    assert answer["finish_reason"] in {"stop", "length"}
