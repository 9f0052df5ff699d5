"""`skipstone eval choices`: how close early choices stay to those of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, ClosingOption, NormalizeName, NormalizeOption, Place, Printing
from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.evaluate import ChoiceQuality

NAME = "choices"
EXAMPLES = """\b
Example:
  skipstone eval choices my-bundle --cases cases.jsonl"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    cases: Annotated[Path, typer.Option("--cases", metavar="FILE", help="Cases, one JSON object a line.")],
    normalize: NormalizeOption = NormalizeName.none,
    closing: ClosingOption = False,
) -> None:
    """Measure how often an early choice is that of all layers, and its time.

    Judges the dials of `choose` from 1 down to 0.2. A case is {"prompt": "...", "answers": ["...", "..."]}; with
    "right": "..." it counts the right ones too.
    """
    from skipstone.evaluate import evaluate_choices, read_cases
    from skipstone.runtime.engine import exit_stages

    known = read_cases(cases)
    model = place.load(bundle).runtime
    exit_stages(model)  # refuses a bundle without exits, where there is nothing to compare
    with progress_bar("cases", total=len(known), count=MofNCompleteColumn(), quiet=printing.quiet) as (progress, task):
        rows = evaluate_choices(
            model,
            known,
            normalize=normalize.value,
            closing=closing,
            on_progress=lambda count: progress.advance(task, count),
        )
    if printing.as_json:
        settings = [asdict(row) for row in rows]
        print_json({"bundle": bundle, "approximate": "choice", "cases": len(known), "settings": settings})
    else:
        write(f"approximate decoding: choice, {len(known)} cases\n" + _table(rows))


def _table(rows: Sequence[ChoiceQuality]) -> str:
    judged = any(row.right is not None for row in rows)  # whether the cases say which answer is right
    head = ["dial", "agreement", *(["right"] if judged else []), "layers", "KL", "ms", "x all layers"]
    cells = [
        [
            f"{row.dial:g}",
            f"{row.agreement:.1%}",
            *([] if row.right is None else [f"{row.right:.1%}"]),
            f"{row.layers:.1%}",
            f"{row.kl:.4f}",
            f"{row.seconds * 1e3:.2f}",
            f"{rows[0].seconds / row.seconds:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(head, cells)
