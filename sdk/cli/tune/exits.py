"""`skipstone tune exits`: learn from text how sure an exit must be."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from skipstone.bench import bench_texts
from skipstone.cli.terminal import _aligned, note_kept, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model
    from skipstone.runtime.methods.depth import Calibration


def _calibrate(model: Model, texts: list[str], bundle: str, *, as_json: bool, quiet: bool) -> None:
    from skipstone.bundled import notes_folder
    from skipstone.runtime.methods.depth import calibrate, exits_note, text_windows

    texts = texts or bench_texts()
    total = sum(map(len, text_windows(model, texts)))
    with progress_bar("calibrating", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        found = calibrate(model, texts, on_progress=lambda count: progress.advance(task, count))
    note = exits_note(model.manifest)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(found, path)
    if as_json:
        print_json({"bundle": bundle, **note.made_for, **asdict(found)})
    else:
        write(_exits_table(found))
    note_kept(path, "the calibration is", kept=kept, quiet=quiet)


def _exits_table(found: Calibration) -> str:
    """Return, by agreement, the share of tokens that may leave at each exit and the confidence it takes."""
    head = ["agreement", *(f"after {one.num_layers} layers" for one in found.exits)]
    rows = [["exit alone", *(f"{100 * one.agreement:.1f} % agree" for one in found.exits)]]
    for levels in zip(*(one.levels for one in found.exits), strict=True):
        cells = [
            "never" if level.threshold is None else f"{level.share:.0%} leave, {level.metric} > {level.threshold:.3f}"
            for level in levels
        ]
        rows.append([f"{100 * levels[0].agreement:.1f} %", *cells])
    sure = f"each holds with a chance of {1 - found.error_rate:.0%} on texts like this one"
    return f"approximate decoding, calibrated on {found.num_tokens} tokens; {sure}\n" + _aligned([head, *rows])
