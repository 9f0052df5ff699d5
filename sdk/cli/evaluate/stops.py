"""`skipstone eval stops`: what completions are worth that end where the model gets unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, Printing, RequiredTextsOption, numbers, read_text
from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.evaluate import StopQuality

NAME = "stops"
EXAMPLES = """\b
Example:
  skipstone eval stops my-bundle --text held-out.txt --stop-below 0,0.05,0.1,0.2,0.4"""
NUM_PROMPTS = 100


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    text: RequiredTextsOption,
    stop_below: Annotated[
        list[str] | None,
        typer.Option(metavar="P,...", help="Chances to end below; repeatable; default: 0,0.05,0.1,0.2,0.4."),
    ] = None,
) -> None:
    """Measure completions that end where the model gets unsure.

    Of 100 completions of pieces of the texts: how many are suppressed, how long the others are, and how many of them
    are what the text goes on with.
    """
    from skipstone.evaluate import STOP_SETTINGS, evaluate_stop
    from skipstone.runtime.text import StopDecision

    settings = numbers("--stop-below", stop_below or ()) or STOP_SETTINGS
    for setting in settings:
        StopDecision(setting)  # refuses what is no chance before the model is loaded
    texts = [read_text(path) for path in text]
    model, total = place.load(bundle).runtime, NUM_PROMPTS
    with progress_bar("completing", total=total, count=MofNCompleteColumn(), quiet=printing.quiet) as (progress, task):
        rows = evaluate_stop(
            model, texts, settings, num_prompts=total, on_progress=lambda count: progress.advance(task, count)
        )
    if printing.as_json:
        print_json({"bundle": bundle, "approximate": "stop_below", "settings": [asdict(row) for row in rows]})
    else:
        write(
            "approximate decoding: completions of at most 16 tokens, ended where the model is unsure\n" + _table(rows)
        )


def _table(rows: Sequence[StopQuality]) -> str:
    head = ["stop below", "suppressed", "tokens shown", "precision", "tokens saved", "ms each", "tokens/s"]
    cells = [
        [
            f"{row.stop_below:g}",
            f"{row.suppressed:.1%}",
            f"{row.tokens:.1f}",
            f"{row.precision:.1%}",
            f"{row.saved:.1%}",
            f"{row.seconds * 1e3:.1f}",
            f"{row.tokens_per_s:.1f}",
        ]
        for row in rows
    ]
    return markdown_table(head, cells)
