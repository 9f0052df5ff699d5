"""Models by their names on the command line; what is no bundle is exported before the eyes of the user."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["bundle_folder"]


def bundle_folder(name: str, *, quiet: bool = False) -> Path:
    """Return the bundle folder of a model, as `skipstone.by_name.resolve`, and show its export."""
    from skipstone.by_name import resolve
    from skipstone.cli.export_lines import ExportLines

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "generate")
    return resolve(name, watcher=ExportLines(quiet=quiet), command=command)
