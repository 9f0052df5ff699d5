"""`skipstone tune active`: how many experts of each layer are active."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, Printing, TextsOption, read_texts
from skipstone.cli.terminal import markdown_table, note_kept, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model
    from skipstone.runtime.methods.experts import ActiveLevel, ActiveLevels

NAME = "active"
EXAMPLES = """\b
Examples:
  skipstone tune active my-bundle --text notes.txt
  skipstone tune active my-bundle --text notes.txt --budget kl:0.1"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    text: TextsOption = None,
    budget: Annotated[
        str | None, typer.Option(metavar="kl:X|Yms", help="Find the share for a KL, or for milliseconds a token.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed finds the same.")] = 0,
) -> None:
    """Search how many experts of each layer are active, for --decode active and sparse.

    At a quarter, half and three quarters of all, and at the share that a budget allows. Each layer is tried alone, then
    layers give experts to others, along 2,048 tokens spread over the text. Interrupted, it goes on where it was.
    """
    from skipstone.activate import ActiveBudget, find_levels
    from skipstone.bundled import notes_folder
    from skipstone.runtime.methods.experts import active_note

    limit = None if budget is None else ActiveBudget.parse(budget)
    texts = read_texts(text)
    model = place.load(bundle).runtime
    with progress_bar("searching", total=1.0, count=TaskProgressColumn(), quiet=printing.quiet) as (progress, task):
        found = find_levels(
            model, texts, budget=limit, seed=seed, on_progress=lambda share: progress.update(task, completed=share)
        )
    note = active_note(model.manifest)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(found, path)
    if printing.as_json:
        print_json({"bundle": bundle, **note.made_for, **asdict(found)})
    else:
        write(_table(model, found))
    if found.chosen is not None:
        notes(quiet=printing.quiet).print(f"{found.budget}: --decode active --dial {found.chosen:.4g}")
    note_kept(path, "the levels are", kept=kept, quiet=printing.quiet)


def _table(model: Model, found: ActiveLevels) -> str:
    """Return, by share, the KL to all experts, the time of a step, and the experts of each layer."""
    from skipstone.activate import step_times_ms
    from skipstone.runtime.engine import Part
    from skipstone.runtime.methods.experts import sparse_part

    all_ms, *times = step_times_ms(model, [Part(), *map(sparse_part, found.levels)])
    rows = [_row(level, ms) for level, ms in zip(found.levels, times, strict=True)]
    head = ["active", "KL", "ms a token", "experts by layer"]
    title = f"approximate decoding, measured along {found.num_tokens} tokens\n"
    return title + markdown_table(head, [*rows, ["all", "0", f"{all_ms:.2f}", "-"]])


def _row(level: ActiveLevel, ms: float) -> list[str]:
    kl = "-" if level.kl is None else f"{level.kl:.4f}"
    return [f"{level.share:.1%}", kl, f"{ms:.2f}", " ".join(map(str, level.counts))]
