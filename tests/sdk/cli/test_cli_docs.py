"""docs/cli.md is what the program says of itself. To make it anew:

python tests/sdk/cli/test_cli_docs.py > docs/cli.md
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GROUPS = {
    "tune": ("costs", "exits", "skip", "dial", "threads"),
    "bench": ("speed", "suite", "replay"),
    "eval": ("text", "method", "stops", "choices", "sparsity"),
}
COMMANDS = (
    *(
        ("export",),
        ("generate",),
        ("suggest",),
        ("choose",),
        ("chat",),
        ("inspect",),
        ("devices",),
        ("check-target",),
        ("train-exits",),
        ("train-experts",),
        ("ngrams",),
    ),
    *((group, *command) for group, names in GROUPS.items() for command in ((), *((name,) for name in names))),
    ("demo",),
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"


def help_of(*command: str) -> str:
    """Return the help text at a fixed width, without colours."""
    program = [sys.executable, "-c", "from skipstone.cli import main; main()", *command, "--help"]
    settings = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    run = subprocess.run(program, env=os.environ | settings, capture_output=True, text=True, check=True)
    return run.stdout.replace("Usage: -c ", "Usage: skipstone ").rstrip()


def document() -> str:
    """Return the whole page."""
    parts = ["# The command line\n\nText goes to standard output, everything else to standard error."]
    parts.append("Exit codes: 0 done, 2 a mistake you can mend (one line), 130 interrupted.")
    for command in ((), *COMMANDS):
        title = " ".join(("skipstone", *command))
        parts.append(f"## {title}\n\n```\n{help_of(*command)}\n```")
    return "\n\n".join(parts) + "\n"


def test_the_page_of_the_command_line_is_what_the_program_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


if __name__ == "__main__":
    sys.stdout.write(document())
