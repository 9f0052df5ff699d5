"""`skipstone tune threads`: how many threads decode fastest here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, DeviceOption, Printing
from skipstone.cli.terminal import aligned, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import ThreadSpeed

NAME = "threads"
EXAMPLES = """\b
Example:
  skipstone tune threads pebble"""


@unfold
def run(
    bundle: BundleArgument,
    printing: Printing,
    device: DeviceOption = "cpu",
    most: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most threads to try; default: the physical cores.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of a run.")] = 96,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that count for each number.")] = 3,
) -> None:
    """Measure plain decoding on 1 thread and more, and say which number is fastest.

    Nothing is kept: give the number to other commands as --threads.
    """
    from skipstone.api import resolve
    from skipstone.bench import measure_threads
    from skipstone.devices import physical_cores

    counts = range(1, (most or physical_cores()) + 1)
    with progress_bar("threads", total=len(counts), count=MofNCompleteColumn(), quiet=printing.quiet) as (bar, task):
        speeds = measure_threads(
            resolve(bundle),
            counts,
            new_tokens=new_tokens,
            runs=runs,
            device=device,
            on_progress=lambda count: bar.advance(task, count),
        )
    best = max(speeds, key=lambda speed: speed.decode_tokens_per_s).threads
    if printing.as_json:
        print_json({"bundle": bundle, "best": best, "speeds": [asdict(speed) for speed in speeds]})
        return
    write(_table(speeds))
    notes(quiet=printing.quiet).print(f"fastest with --threads {best}")


def _table(speeds: Sequence[ThreadSpeed]) -> str:
    rows = [
        [str(speed.threads), f"{speed.decode_tokens_per_s:.1f}", f"{speed.prefill_tokens_per_s:.0f}"]
        for speed in speeds
    ]
    return aligned([["threads", "tokens/s", "prompt tokens/s"], *rows])
