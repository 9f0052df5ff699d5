"""Running optimum, which traces a model with torch, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from skipstone.errors import ConfigError

__all__ = ["require_optimum", "run_optimum"]

PROGRAM = """
import sys
from optimum.exporters.onnx import main_export
main_export(
    sys.argv[1],
    output=sys.argv[2],
    task="text-generation-with-past",
    dtype="fp32",
    library_name="transformers",
    do_validation=False,
    trust_remote_code=False,
)
"""


def require_optimum() -> None:
    """Raise ConfigError unless optimum and its exporter are installed."""
    try:
        spec = find_spec("optimum.exporters.onnx")
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ConfigError(
            "exporting through optimum needs a package that is not here: pip install 'skipstone[optimum]'"
        )


def run_optimum(checkpoint: Path, folder: Path) -> None:
    """Let optimum read the folder of a checkpoint and write its graph to another; no code of the checkpoint runs.

    Its sessions and ours cannot share a process, and torch's memory ends with it. Raises: RuntimeError with its reason.
    """
    command = [sys.executable, "-P", "-c", PROGRAM, str(checkpoint), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise RuntimeError(said[-1].partition(". ")[0])
