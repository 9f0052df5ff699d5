"""`skipstone tune exits`: learn from text how sure an exit must be."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, Printing, TextsOption, read_texts
from skipstone.cli.terminal import aligned, note_kept, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.runtime.methods.depth import ExitThresholds

NAME = "exits"
EXAMPLES = """\b
Example:
  skipstone tune exits my-bundle --text notes.txt --text more.txt"""


@unfold
def run(bundle: BundleArgument, place: Place, printing: Printing, text: TextsOption = None) -> None:
    """Calibrate the exits of a bundle on texts, for --decode exit.

    Finds from which confidence each exit may make a token on its own, for shares of tokens that are to be as the full
    model's. The text should be like that to be made, 10,000 tokens or more.
    """
    from skipstone.bundled import notes_folder
    from skipstone.runtime.methods.depth import calibrate, exits_note, text_windows

    texts = read_texts(text)
    model = place.load(bundle).runtime
    total = sum(map(len, text_windows(model, texts)))
    with progress_bar("calibrating", total=total, count=MofNCompleteColumn(), quiet=printing.quiet) as (progress, task):
        calibration = calibrate(model, texts, on_progress=lambda count: progress.advance(task, count))
    note = exits_note(model.manifest)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(calibration, path)
    if printing.as_json:
        print_json({"bundle": bundle, **note.made_for, **asdict(calibration)})
    else:
        write(_table(calibration))
    note_kept(path, "the calibration is", kept=kept, quiet=printing.quiet)


def _table(found: ExitThresholds) -> str:
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
    return f"approximate decoding, calibrated on {found.num_tokens} tokens; {sure}\n" + aligned([head, *rows])
