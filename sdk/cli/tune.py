"""skipstone tune: what a model call costs here, the ground of every plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.options import BundleArgument, DeviceOption, JsonOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.devices import CostCurve

NAME = "tune"
EXAMPLES = """\b
Examples:
  skipstone tune pebble
  skipstone tune my-bundle --seconds 10 --plot costs.png"""


def run(
    bundle: BundleArgument,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="Time to measure.")] = 3.0,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the curve to this file.")] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the cost curve of a bundle here.

    Milliseconds of a call for so many rows and cached tokens. `--decode auto` plans with it: this replaces the quick
    measurement of the first use. Measure again when the machine was busy.
    """
    from skipstone.api import load
    from skipstone.runtime.planning import measure_costs, profile_path, save_curve

    if plot is not None:
        from skipstone.plot import require_plot

        require_plot(plot)
    model = load(bundle, device=device, threads=threads).runtime
    with progress_bar("measuring", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        curve = measure_costs(
            model,
            budget_s=seconds,
            min_sweeps=3,
            max_sweeps=10**6,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    kept = save_curve(model, curve)
    if plot is not None:
        from skipstone.plot import plot_costs

        plot_costs(curve, title=f"{bundle} on {model.device.name}, {model.device.threads} threads", path=plot)
    if as_json:
        print_json({"bundle": bundle, "device": model.device.name, "threads": model.device.threads, **curve.to_json()})
        return
    write(_table(curve))
    failed = f"{profile_path(model)} cannot be written, so the curve is not kept; SKIPSTONE_CACHE sets the folder"
    notes(quiet=quiet).print(failed if kept is None else f"kept in {kept}")


def _table(curve: CostCurve) -> str:
    """Return milliseconds by rows and context, and beside them how often each guess must be right to pay."""
    head = ["rows", *(f"ms at {context}" for context in curve.contexts), "x one row", "pays from"]
    lines = []
    for index, rows in enumerate(curve.rows):
        times = [line[index] for line in curve.ms]
        factor = times[0] / curve.ms[0][0]
        pays = f"{(factor - 1) / (rows - 1):.0%}" if rows > 1 else ""
        lines.append([str(rows), *(f"{ms:.3g}" for ms in times), f"{factor:.2f}", pays])
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    aligned = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *lines))
    return "".join("  ".join(line).rstrip() + "\n" for line in aligned)
