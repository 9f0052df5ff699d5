"""skipstone bench: how fast a bundle is here."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from skipstone.cli.options import BundleArgument, DeviceOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import notes, print_json, write

NAME = "bench"
EXAMPLES = """Examples:

skipstone bench pebble

skipstone bench my-bundle --prompt-tokens 1000 --runs 9 -o json"""


class OutputFormat(StrEnum):
    md = "md"
    json = "json"
    csv = "csv"


def run(
    bundle: BundleArgument,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens read before the first new one.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens made.")] = 96,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one that warms up.")] = 5,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print the result.")] = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Measure prefill, decoding, load time and memory; medians over runs."""
    from skipstone.api import resolve
    from skipstone.benchmark import benchmark

    console = notes(quiet=quiet)
    columns = (TextColumn("run"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("run", total=runs)
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
        writer = csv.DictWriter(sys.stdout, fieldnames=list(record))
        writer.writeheader()
        writer.writerow(record)
    else:
        rows = [f"| {name} | {_readable(value)} |" for name, value in record.items()]
        write("\n".join(["| measure | value |", "|---|---|", *rows]) + "\n")


def _readable(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
