"""skipstone bench: how fast a bundle is here."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.options import BundleArgument, DeviceOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import print_json, progress_bar, write

NAME = "bench"
EXAMPLES = """\b
Examples:
  skipstone bench pebble
  skipstone bench my-bundle --prompt-tokens 1000 --runs 9 -o json"""


class OutputFormat(StrEnum):
    md = "md"
    json = "json"
    csv = "csv"


def run(
    bundle: BundleArgument,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the random prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to make.")] = 96,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that count, after one that warms up.")] = 5,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print the result.")] = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Measure speed and memory of a bundle here.

    Load time, time to first token, prefill, decoding, peak memory; medians over the runs.
    """
    from skipstone.api import resolve
    from skipstone.benchmark import benchmark

    with progress_bar("run", total=runs, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        result = benchmark(
            resolve(bundle),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            runs=runs,
            device=device,
            threads=threads,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    _print(asdict(result), output)


def _print(record: dict[str, Any], output: OutputFormat) -> None:
    if output is OutputFormat.json:
        print_json(record)
    elif output is OutputFormat.csv:
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(record), lineterminator="\n")
        writer.writeheader()
        writer.writerow(record)
        write(table.getvalue())
    else:
        write(_markdown({name: _readable(value) for name, value in record.items()}))


def _markdown(cells: dict[str, str]) -> str:
    names, values = max(map(len, cells)), max(map(len, cells.values()))
    head = [f"| {'measure':{names}} | {'value':{values}} |", f"|{'-' * (names + 2)}|{'-' * (values + 2)}|"]
    rows = [f"| {name:{names}} | {value:{values}} |" for name, value in cells.items()]
    return "\n".join([*head, *rows, ""])


def _readable(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
