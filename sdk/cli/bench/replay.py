"""skipstone bench --replay: decoding methods on recorded texts, with the costs measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import DownloadColumn

from skipstone.cli.terminal import OutputFormat, csv_table, markdown_table, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import ReplayResult

__all__ = ["run_replay"]


def run_replay(
    bundle: str,
    paths: Sequence[Path],
    methods: str,
    *,
    device: str,
    threads: int | None,
    output: OutputFormat,
    quiet: bool,
) -> None:
    """Replay the texts in each path with each method, and print what they would gain."""
    from skipstone.api import load
    from skipstone.bench import read_recordings, replay_texts
    from skipstone.runtime.costs import cost_curve
    from skipstone.runtime.methods import MethodChoice

    names = [name.strip().replace("+", ",") for name in methods.split(",")]
    for name in names:
        MethodChoice.parse(name)
    texts = {path: read_recordings(path) for path in paths}
    model = load(bundle, device=device, threads=threads).runtime
    curve = cost_curve(model)
    total = len(names) * sum(len(text.reply.encode()) for found in texts.values() for text in found)
    results = []
    with progress_bar("replaying", total=total, count=DownloadColumn(), quiet=quiet) as (progress, task):
        for path, recordings in texts.items():
            for name in names:
                done = replay_texts(
                    model, recordings, name, source=str(path), on_progress=lambda n: progress.advance(task, n)
                )
                results.append(done)
    records = [asdict(result) | {"ratio": result.ratio, "estimate": "replay"} for result in results]
    if output is OutputFormat.json:
        print_json({"bundle": bundle, "curve": asdict(curve), "results": records})
    elif output is OutputFormat.csv:
        write(csv_table(records))
    else:
        write(_markdown(results))
        notes(quiet=quiet).print("replay: times of model calls are looked up in the cost curve, not measured")


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
