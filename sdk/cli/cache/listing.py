"""skipstone cache list: what is kept in the user's cache folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from skipstone.cli.options import JsonOption
from skipstone.cli.terminal import print_json, write
from skipstone.errors import OutputError

__all__ = ["NAME", "run"]

NAME = "list"
EXAMPLES = """\b
Examples:
  skipstone cache
  skipstone cache list --json"""
DAY_S: Final = 86400


def run(as_json: JsonOption = False) -> None:
    """List what is kept: exports of models run by name, the bundled models, and what was measured.

    An export of another version of skipstone is not used any more; it stays until it is removed.
    """
    from skipstone.bundled import cache_folder

    if (near := _nearest(cache_folder())) is not None and not near.is_dir():
        raise OutputError(f"{near} is a file, so {cache_folder()} cannot be a folder; set SKIPSTONE_CACHE to another")
    rows = list(_rows())
    if as_json:
        print_json({"folder": str(cache_folder()), "kept": rows})
        return
    write(f"{cache_folder()}: {sum(row['bytes'] for row in rows) / 1e6:.1f} MB\n")
    if rows:
        _write_table(rows)


def _nearest(folder: Path) -> Path | None:
    """Return the part of a path that exists."""
    return next((place for place in (folder, *folder.parents) if os.path.lexists(place)), None)


def _write_table(rows: list[dict[str, Any]]) -> None:
    table = [("name", "precision", "MB", "last used", "of"), *map(_told, rows)]
    widths = [max(len(row[place]) for row in table) for place in range(4)]
    for name, precision, size, used, source in table:
        line = f"{name:{widths[0]}}  {precision:{widths[1]}}  {size:>{widths[2]}}  {used:{widths[3]}}  {source}"
        write(line.rstrip() + "\n")


def _told(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    days = row["days_unused"]
    used = "" if days is None else "today" if days < 1 else f"{days:.0f} days ago"
    note = f" ({row['note']})" if row["note"] else ""
    return row["name"], row["precision"] or "", f"{row['bytes'] / 1e6:.1f}", used, f"{row['source']}{note}"


def _rows() -> Iterator[dict[str, Any]]:
    """Yield what is kept, each as plain data."""
    from skipstone.bundled import BUNDLED, cache_folder, notes_folder
    from skipstone.by_name import MANIFEST_NAME, kept_exports

    for kept in kept_exports():
        yield _row(kept.path, kept.asked, kept.last_used, _note(kept))
    for folder in sorted(cache_folder().glob("pebble*")) if cache_folder().is_dir() else ():
        if (folder / MANIFEST_NAME).is_file():
            name = next((name for name in sorted(BUNDLED, key=len, reverse=True) if folder.name.startswith(name)), "")
            yield _row(folder, f"the bundled {name}", None, None)
    notes = [file for file in notes_folder().rglob("*") if file.is_file()] if notes_folder().is_dir() else []
    if notes:
        size = sum(file.stat().st_size for file in notes)
        yield {
            "name": notes_folder().name,
            "precision": None,
            "bytes": size,
            "days_unused": None,
            "source": f"{len(notes)} measurements of this device",
            "note": None,
        }


def _note(kept: Any) -> str | None:
    from importlib.metadata import version

    if not kept.opens():
        return "damaged; made again when it is run"
    return None if kept.version == version("skipstone") else f"of skipstone {kept.version}; not used any more"


def _row(folder: Path, source: str, last_used: float | None, note: str | None) -> dict[str, Any]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        "name": folder.name,
        "precision": _precision(folder),
        "bytes": sum(file.stat().st_size for file in files),
        "days_unused": None if last_used is None else max(0.0, time.time() - last_used) / DAY_S,
        "source": source,
        "note": note,
    }


def _precision(folder: Path) -> str | None:
    from skipstone.errors import BundleError
    from skipstone.runtime.bundle import Bundle

    try:
        return Bundle.open(folder).manifest.precision
    except BundleError:
        return None
