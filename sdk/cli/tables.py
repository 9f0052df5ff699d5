"""Results as tables: Markdown for reading, CSV for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

__all__ = ["OutputFormat", "csv_table", "markdown_table", "measures", "readable"]


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
