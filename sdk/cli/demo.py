"""skipstone demo: the whole path on the bundled model, in seconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from skipstone.cli.options import QuietOption
from skipstone.cli.terminal import notes, write

NAME = "demo"
EXAMPLES = """\b
Example:
  skipstone demo"""

PROMPT = "class Stack:"


def run(quiet: QuietOption = False) -> None:
    """Export the bundled model and run it, in seconds."""
    from skipstone.api import load, plan

    console = notes(quiet=quiet)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        target = Path(folder) / "pebble"
        export = plan("pebble")
        export.write(target, command="skipstone demo")
        size = sum(file.stat().st_size for file in target.iterdir())
        seconds = time.perf_counter() - start
        console.print(f"exported pebble to {export.recipe.name}: {size / 1e6:.1f} MB in {seconds:.1f} s")
        model, piece = load(target), None
        write(PROMPT)
        for piece in model.stream(PROMPT, max_new_tokens=96):
            write(piece.text)
        write("\n")
        assert piece is not None and piece.stats is not None
        console.print(f"{piece.stats.decode_tokens_per_s:.0f} tokens/s on {model.runtime.device.threads} threads")
