"""`skipstone tune --skip`: which layers drafts may leave out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from skipstone.cli.terminal import note_kept, notes, print_columns, print_json, progress_bar

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model
    from skipstone.runtime.methods.depth import SkipSet

__all__ = ["search"]


def search(model: Model, texts: list[str], bundle: str, *, as_json: bool, quiet: bool) -> None:
    """Find the layers to leave out, keep them in the cache folder, and show them.

    Raises: ConfigError for a bundle of fewer than three stages, and for a short text.
    """
    from skipstone.bundled import notes_folder
    from skipstone.runtime.methods.depth import find_skip_set, skip_note

    num_inner = max(len(model.manifest.stages) - 2, 0)
    total = num_inner * (num_inner + 1) // 2  # most searches end long before
    with progress_bar("searching", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        found = find_skip_set(model, texts, on_progress=lambda count: progress.advance(task, count))
    note = skip_note(model.manifest)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(found, path)
    if as_json:
        print_json({"bundle": bundle, **note.made_for, **asdict(found)})
    else:
        print_columns(_rows(model, found))
    if found.speed_up <= 1:
        notes(quiet=quiet).print(
            "no layers to leave out promise more than plain decoding here: `--decode skip` does not pay"
        )
    note_kept(path, "the layers are", kept=kept, quiet=quiet)


def _rows(model: Model, found: SkipSet) -> list[tuple[str, str]]:
    num_layers = model.manifest.dimensions.num_layers
    return [
        ("layers left out", f"{', '.join(map(str, found.layers))} (of 0 to {num_layers - 1})"),
        ("agreement", f"{100 * found.agreement:.1f} % of {found.num_tokens} tokens"),
        ("draft cost", f"{found.guess_cost:.2f} of a plain step for each guess"),
        ("expected speed", f"{found.speed_up:.2f} x plain decoding, with drafts of {found.length}"),
    ]
