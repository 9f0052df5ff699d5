"""What a command imports before it works: nothing that it does not need. Names, since times differ by machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
sys.argv = ["skipstone", *{words!r}]
from skipstone.cli.app import main
try:
    main()
except SystemExit:
    pass
print("IMPORTED", *sorted(sys.modules), file=sys.stderr)
"""
NEVER = {"torch", "transformers", "matplotlib", "onnx", "onnx_ir", "huggingface_hub", "gguf", "prompt_toolkit"}
WORKING = {"numpy", "onnxruntime", "tokenizers", "jinja2"}


def imported(*words: str) -> set[str]:
    """Return the modules that a command leaves behind."""
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(words=[*words])], capture_output=True, text=True, check=True
    )
    return {*run.stderr.rpartition("IMPORTED")[2].split()}


@pytest.mark.parametrize("words", [("--version",), ("generate", "--help"), ("chat", "--help"), ("inspect", "--help")])
def test_what_only_tells_imports_no_engine(words: tuple[str, ...]) -> None:
    assert not imported(*words) & (NEVER | WORKING)


def test_a_command_imports_no_other_command() -> None:
    commands = {name for name in imported("generate", "--help") if name.startswith("skipstone.cli.")}
    assert not commands & {
        f"skipstone.cli.{name}" for name in ("export", "inspect", "suggest", "bench", "tune", "chat")
    }


def test_writing_a_text_imports_nothing_that_only_exports() -> None:
    left = imported("generate", "pebble", "-p", "def", "-n", "1", "-q")
    left = imported("generate", "pebble", "-p", "def", "-n", "1", "-q")  # the first may have exported pebble
    assert "onnxruntime" in left
    assert not left & NEVER
    assert not {name for name in left if name.startswith("skipstone.exporters")}


@pytest.mark.parametrize("words", ["generate p", "generate m --decode pl", "chat m --device c"])
def test_completion_imports_no_engine_once_the_words_are_kept(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"skipstone {words}"
    monkeypatch.setenv("_SKIPSTONE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    imported()
    assert not imported() & (NEVER | WORKING)
