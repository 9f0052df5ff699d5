"""What docs/mobile.md shows of the loops stands in examples/mobile/; the Kotlin compiles where there is a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = {"kotlin": "SkipstoneLoop.kt", "swift": "SkipstoneLoop.swift"}


def shown(language: str) -> list[str]:
    """Return the blocks of a language that the page shows."""
    page = (ROOT / "docs" / "mobile.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("language", FILES)
def test_the_page_shows_what_the_files_say(language: str) -> None:
    source = (ROOT / "examples" / "mobile" / FILES[language]).read_text(encoding="utf-8")
    blocks = shown(language)
    assert blocks
    for block in blocks:
        assert block in source or textwrap.indent(block, "    ") in source


@pytest.mark.slow
def test_the_kotlin_compiles_against_stand_ins(tmp_path: Path) -> None:
    compiler, java = os.environ.get("KOTLINC") or shutil.which("kotlinc"), shutil.which("javac")
    if compiler is None or java is None:
        pytest.skip("no kotlinc (KOTLINC names one; `npm install kotlin-compiler` brings it) or no javac")
    sources = sorted((Path(__file__).parent / "stand_ins").rglob("*.java"))
    subprocess.run([java, "-d", tmp_path / "stand_ins", *sources], check=True)
    source = ROOT / "examples" / "mobile" / FILES["kotlin"]
    command = [compiler, "-cp", tmp_path / "stand_ins", "-d", tmp_path / "out", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
