"""`skipstone bench speed`: how fast a bundle is here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, OutputOption, Place, PrefillChoice, PrefillOption, QuietOption
from skipstone.cli.terminal import OutputFormat, csv_table, measures, print_json, progress_bar, write

NAME = "speed"
EXAMPLES = """\b
Examples:
  skipstone bench speed pebble
  skipstone bench speed my-bundle --prompt-tokens 1000 --runs 9 -o json"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the random prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to make.")] = 96,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that count, after one that warms up.")] = 5,
    prefill: PrefillOption = PrefillChoice.auto,
    output: OutputOption = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Measure speed and memory of a bundle.

    Load time, time to first token, prefill, decoding, peak memory, with plain decoding after random tokens; medians
    over the runs.
    """
    from skipstone.bench import benchmark

    with progress_bar("run", total=runs, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        result = benchmark(
            place.folder(bundle),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            runs=runs,
            device=place.device,
            threads=place.threads,
            max_threads=place.max_threads,
            cache=place.cache_name,
            prefill=prefill.value,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    record = asdict(result)
    if output is OutputFormat.json:
        print_json(record)
    else:
        write(csv_table([record]) if output is OutputFormat.csv else measures(record))
