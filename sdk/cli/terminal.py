"""Where output goes: results to standard output, everything said about them to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["notes", "print_json", "progress_bar", "write"]


def notes(*, quiet: bool = False) -> Console:
    """Return the console for remarks and progress; colours only on a terminal and without NO_COLOR."""
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


def write(text: str) -> None:
    """Write a piece of the result, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_json(data: Any) -> None:
    write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress_bar(title: str, *, total_bytes: int, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar with bytes and time left on standard error, gone when done; nothing into pipes or when quiet."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = notes(quiet=quiet)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        yield progress, progress.add_task(title, total=total_bytes)
