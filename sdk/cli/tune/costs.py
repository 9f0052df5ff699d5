"""`skipstone tune costs`: what a model call costs here, the ground of every plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, PlotOption, Printing
from skipstone.cli.terminal import aligned, note_kept, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.runtime.costs import CostCurve
    from skipstone.runtime.engine import Model

SHOWN_ROWS = (1, 4, 16)
WHY = "an int8 cache is a quarter to read, which counts behind long texts; fp32 has the quicker kernels for many rows"
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
    it learns from the calls of a text. Of a bundle with an int8 cache both types are measured, which `--cache auto`
    chooses by. Where the number of threads follows the machine, the curves on fewer are kept too. The times are the
    shortest; `spread` is how far above them they usually were. What was disturbed by other programs is measured again,
    and a curve that stays so is not kept.
    """
    from skipstone.bench import plot_costs, require_plot
    from skipstone.bundled import notes_folder
    from skipstone.runtime.costs import costs_note
    from skipstone.runtime.engine import CACHE_WORDS

    if plot is not None:
        require_plot(plot)
    model = place.load(bundle).runtime
    models = [model, *_other_caches(model, place)]
    curves, paths, kept = {}, [], True
    for measured in models:
        curve = curves[measured.sessions.cache_type] = _measure(measured, seconds / len(models), quiet=printing.quiet)
        note = costs_note(measured)
        paths.append(note.path(model.profiles or notes_folder()))
        kept = curve.is_sound and note.save(curve, paths[-1]) and kept
        for threads in measured.sessions.crew.steps[:-1]:
            fewer, note = seconds / len(models) / 2, costs_note(measured, threads=threads)
            curve = _measure(measured, fewer, threads=threads, quiet=printing.quiet)
            if curve.is_sound:
                kept = note.save(curve, note.path(model.profiles or notes_folder())) and kept
    first = curves[model.sessions.cache_type]
    if plot is not None:
        plot_costs(first, title=f"{bundle} on {model.device.name}, {model.device.threads} threads", path=plot)
    if printing.as_json:
        by_type = {"caches": {CACHE_WORDS[name]: asdict(curve) for name, curve in curves.items()}}
        where = {"bundle": bundle, "device": model.device.name, "threads": model.device.threads}
        print_json({**where, **asdict(first), **(by_type if len(curves) > 1 else {})})
        return
    for cache_type, curve in curves.items():
        write(f"cache {CACHE_WORDS[cache_type]}\n" if len(curves) > 1 else "")
        write(_table(curve))
    if len(curves) > 1:
        write(_crossings(curves, limit=model.manifest.context_length))
    if all(curve.is_sound for curve in curves.values()):
        note_kept(paths[0], "the curve is", kept=kept, quiet=printing.quiet)
    else:
        notes(quiet=printing.quiet).print("the machine was too busy to measure, so the curve is not kept; try again")


def _other_caches(model: Model, place: Place) -> list[Model]:
    """Return the bundle with its other types of cache, unless one was asked for."""
    from skipstone.runtime.engine import Model, runs_cache

    if place.cache is not None:
        return []
    return [
        Model(model.bundle, model.device, profiles=model.profiles, cache_type=cache_type)
        for cache_type in model.manifest.cache_types
        if cache_type != model.sessions.cache_type and runs_cache(model.device, cache_type)
    ]


def _crossings(curves: Mapping[str, CostCurve], *, limit: int) -> str:
    """Return which cache is the quicker one for calls of some rows, line by line, and why."""
    from skipstone.runtime.costs import crossings

    lines = [crossing.told for crossing in crossings(curves, rows=SHOWN_ROWS, limit=limit)]
    return "quicker cache\n" + "".join(f"  {line}\n" for line in (*lines, WHY))


def _measure(model: Model, seconds: float, *, threads: int | None = None, quiet: bool) -> CostCurve:
    from skipstone.runtime.costs import measure_costs

    with progress_bar("measuring", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        return measure_costs(
            model,
            budget_s=seconds,
            min_sweeps=3,
            max_sweeps=10**6,
            threads=threads,
            on_progress=lambda share: progress.update(task, completed=share),
        )


def _table(curve: CostCurve) -> str:
    """Return milliseconds by rows and context; how far above them calls usually were; how often a guess must be right
    to pay."""
    head = ["rows", *(f"ms at {context}" for context in curve.contexts), "spread", "x one row", "pays from"]
    lines = []
    for index, rows in enumerate(curve.rows):
        times = [line[index] for line in curve.seconds]
        spread = median(line[index] for line in curve.spread) if curve.spread else 0.0
        factor = times[0] / curve.seconds[0][0]
        pays = f"{(factor - 1) / (rows - 1):.0%}" if rows > 1 else ""
        lines.append(
            [str(rows), *(f"{1e3 * seconds:.3g}" for seconds in times), f"{spread:.0%}", f"{factor:.2f}", pays]
        )
    return aligned([head, *lines])
