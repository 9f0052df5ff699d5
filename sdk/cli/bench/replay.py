"""`skipstone bench replay`: decoding methods on recorded texts, with the costs measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import DownloadColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, OutputOption, Place, QuietOption, require_lossless
from skipstone.cli.terminal import OutputFormat, csv_table, markdown_table, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import Recording, ReplayResult
    from skipstone.runtime.engine import Model

NAME = "replay"
EXAMPLES = """\b
Example:
  skipstone bench replay my-bundle --text texts.jsonl --decode ngram,auto"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    text: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Recorded texts: .jsonl, text, folder of .py; repeatable.")
    ],
    decode: Annotated[str, typer.Option(metavar="METHODS", help="Such as ngram+suffix,auto.")] = "plain,auto",
    output: OutputOption = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Estimate what methods that need only text would gain on recorded texts.

    The cost of calls is that measured here.
    """
    from skipstone.bench import read_recordings
    from skipstone.runtime.costs import cost_curve
    from skipstone.runtime.methods import MethodChoice

    require_lossless(decode.replace("+", ",").split(","), "bench")
    names = [name.strip().replace("+", ",") for name in decode.split(",")]
    for name in names:
        MethodChoice.parse(name)
    texts = {path: read_recordings(path) for path in text}
    model = place.load(bundle).runtime
    curve = cost_curve(model)
    results = _replay(model, names, texts, quiet=quiet)
    records = [asdict(result) | {"ratio": result.ratio, "estimate": "replay"} for result in results]
    if output is OutputFormat.json:
        print_json({"bundle": bundle, "curve": asdict(curve), "results": records})
    elif output is OutputFormat.csv:
        write(csv_table(records))
    else:
        write(_markdown(results))
        notes(quiet=quiet).print("replay: times of model calls are looked up in the cost curve, not measured")


def _replay(
    model: Model, names: Sequence[str], texts: Mapping[Path, Sequence[Recording]], *, quiet: bool
) -> list[ReplayResult]:
    from skipstone.bench import replay_texts

    total = len(names) * sum(len(text.reply.encode()) for recordings in texts.values() for text in recordings)
    with progress_bar("replaying", total=total, count=DownloadColumn(), quiet=quiet) as (progress, task):
        return [
            replay_texts(
                model, recordings, name, source=str(path), on_progress=lambda count: progress.advance(task, count)
            )
            for path, recordings in texts.items()
            for name in names
        ]


def _markdown(results: Sequence[ReplayResult]) -> str:
    head = ["replay of", "kB", "method", "times plain", "tokens a call", "accepted", "drafting, us a call"]
    rows = [
        [
            Path(result.source).name,
            f"{result.num_bytes / 1e3:.0f}",
            result.method,
            f"{result.ratio:.2f} x",
            f"{result.tokens_per_call:.2f}",
            f"{result.accepted / result.drafted:.0%}" if result.drafted else "none made",
            f"{result.draft_s / result.calls * 1e6:.0f}",
        ]
        for result in results
    ]
    return markdown_table(head, rows)
