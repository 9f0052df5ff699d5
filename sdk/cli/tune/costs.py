"""`skipstone tune costs`: what a model call costs here, the ground of every plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, PlotOption, Printing
from skipstone.cli.terminal import aligned, note_kept, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.runtime.costs import CostCurve
    from skipstone.runtime.engine import Model

NAME = "costs"
EXAMPLES = """\b
Examples:
  skipstone tune costs pebble
  skipstone tune costs my-bundle --seconds 10 --plot costs.png"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="Time to measure.")] = 3.0,
    plot: PlotOption = None,
) -> None:
    """Measure the cost curve of a bundle.

    Milliseconds of a call for so many rows and cached tokens. `--decode auto` then plans with it; without it,
    it learns from the calls of a text. Measure again when the machine was busy.
    """
    from skipstone.bench import plot_costs, require_plot
    from skipstone.bundled import notes_folder
    from skipstone.runtime.costs import costs_note

    if plot is not None:
        require_plot(plot)
    model = place.load(bundle).runtime
    curve = _measure(model, seconds, quiet=printing.quiet)
    note = costs_note(model)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(curve, path)
    if plot is not None:
        plot_costs(curve, title=f"{bundle} on {model.device.name}, {model.device.threads} threads", path=plot)
    if printing.as_json:
        print_json({"bundle": bundle, "device": model.device.name, "threads": model.device.threads, **asdict(curve)})
        return
    write(_table(curve))
    note_kept(path, "the curve is", kept=kept, quiet=printing.quiet)


def _measure(model: Model, seconds: float, *, quiet: bool) -> CostCurve:
    from skipstone.runtime.costs import measure_costs

    with progress_bar("measuring", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        return measure_costs(
            model,
            budget_s=seconds,
            min_sweeps=3,
            max_sweeps=10**6,
            on_progress=lambda share: progress.update(task, completed=share),
        )


def _table(curve: CostCurve) -> str:
    """Return milliseconds by rows and context, and beside them how often each guess must be right to pay."""
    head = ["rows", *(f"ms at {context}" for context in curve.contexts), "x one row", "pays from"]
    lines = []
    for index, rows in enumerate(curve.rows):
        times = [line[index] for line in curve.seconds]
        factor = times[0] / curve.seconds[0][0]
        pays = f"{(factor - 1) / (rows - 1):.0%}" if rows > 1 else ""
        lines.append([str(rows), *(f"{1e3 * seconds:.3g}" for seconds in times), f"{factor:.2f}", pays])
    return aligned([head, *lines])
