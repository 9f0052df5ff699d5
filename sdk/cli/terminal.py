"""Where output goes: results to standard output, everything said about them to standard error."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn

from skipstone.errors import OutputError

__all__ = [
    "OutputFormat",
    "aligned",
    "aligned_left",
    "csv_table",
    "markdown_table",
    "measures",
    "note_kept",
    "notes",
    "print_columns",
    "print_json",
    "progress_bar",
    "readable",
    "write",
]


# All but tab and line feed; the pictures of Unicode for the first 32 and Delete, a question mark for those of Latin-1.
SHOWN = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def notes(*, quiet: bool = False) -> Console:
    """Return the console for remarks and progress; styles only on a terminal and without NO_COLOR."""
    return Console(
        stderr=True,
        quiet=quiet,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,  # a path may hold [brackets] and :colons:
        emoji=False,
        soft_wrap=True,
    )


def write(text: str) -> None:
    """Write a piece of the result, at once; end the program when nobody reads it any more.

    Raises: OutputError when it cannot be written.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit from error
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def visible(text: str) -> str:
    """Return a text whose control characters a terminal shows and does not obey; elsewhere the text as it is."""
    if sys.stdout is None or not sys.stdout.isatty():
        return text
    return text.translate(SHOWN)


def print_json(data: Any, *, indent: int | None = 2) -> None:
    is_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower() == "utf-8"
    write(json.dumps(data, indent=indent, ensure_ascii=not is_utf8) + "\n")


def print_json_line(data: Any) -> None:
    """Write one line of JSON Lines."""
    print_json(data, indent=None)


def print_columns(rows: Iterable[tuple[str, str]]) -> None:
    """Write names and values in two columns, never cut to a width; each line of a value stands under its first."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        write(f"{name:{width}}  " + value.replace("\n", "\n" + " " * (width + 2)) + "\n")


@contextmanager
def progress_bar(
    title: str, *, total: float | None, count: ProgressColumn, quiet: bool
) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar with the `count` and the time left on standard error, gone when done; not in pipes or when quiet.

    Without a `total` the bar moves and says only that something goes on.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    console = notes(quiet=quiet)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        yield progress, progress.add_task(title, total=total)


def note_kept(path: Path | None, what: str, *, kept: bool, quiet: bool) -> None:
    """Say where a result is kept for later commands, or that it is not."""
    failed = f"{path} cannot be written, so {what} not kept; SKIPSTONE_CACHE sets the folder"
    notes(quiet=quiet).print(f"kept in {path}" if kept else failed)


def aligned(lines: list[list[str]]) -> str:
    """Return lines of cells as a table without rules, each column to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in aligned)


def aligned_left(lines: list[list[str]]) -> str:
    """Return lines of cells as a table without rules, each column to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in aligned)


class OutputFormat(StrEnum):
    md = "md"
    json = "json"
    csv = "csv"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:], ""])


def measures(record: Mapping[str, Any]) -> str:
    """Return one record as a Markdown table of two columns, names and values."""
    return markdown_table(["measure", "value"], [(name, readable(value)) for name, value in record.items()])


def readable(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def csv_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records with the same names as lines of CSV, the names first; None is empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue()
