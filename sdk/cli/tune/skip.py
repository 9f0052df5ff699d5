"""`skipstone tune skip`: which layers drafts may leave out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, Printing, TextsOption, read_texts
from skipstone.cli.terminal import note_kept, notes, print_columns, print_json, progress_bar

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model
    from skipstone.runtime.methods.depth import SkipSet

NAME = "skip"
EXAMPLES = """\b
Example:
  skipstone tune skip my-bundle --text notes.txt"""


@unfold
def run(bundle: BundleArgument, place: Place, printing: Printing, text: TextsOption = None) -> None:
    """Search layers that drafts may leave out, for --decode skip.

    Guesses then come cheap and still often stand. Leaves out one more layer at a time, along 2,048 tokens spread over
    the text, as long as drafts promise more.
    """
    from skipstone.bundled import notes_folder
    from skipstone.runtime.methods.depth import skip_note

    texts = read_texts(text)
    model = place.load(bundle).runtime
    skip_set = _search(model, texts, quiet=printing.quiet)
    note = skip_note(model.manifest)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(skip_set, path)
    if printing.as_json:
        print_json({"bundle": bundle, **note.made_for, **asdict(skip_set)})
    else:
        print_columns(_rows(model, skip_set))
    if skip_set.speed_up <= 1:
        notes(quiet=printing.quiet).print(
            "no layers to leave out promise more than plain decoding here: `--decode skip` does not pay"
        )
    note_kept(path, "the layers are", kept=kept, quiet=printing.quiet)


def _search(model: Model, texts: list[str], *, quiet: bool) -> SkipSet:
    from skipstone.runtime.methods.depth import find_skip_set

    num_inner = max(len(model.manifest.stages) - 2, 0)
    total = num_inner * (num_inner + 1) // 2  # most searches end long before
    with progress_bar("searching", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        return find_skip_set(model, texts, on_progress=lambda count: progress.advance(task, count))


def _rows(model: Model, found: SkipSet) -> list[tuple[str, str]]:
    num_layers = model.manifest.dimensions.num_layers
    return [
        ("layers left out", f"{', '.join(map(str, found.layers))} (of 0 to {num_layers - 1})"),
        ("agreement", f"{100 * found.agreement:.1f} % of {found.num_tokens} tokens"),
        ("draft cost", f"{found.guess_cost:.2f} of a plain step for each guess"),
        ("expected speed", f"{found.speed_up:.2f} x plain decoding, with drafts of {found.length}"),
    ]
