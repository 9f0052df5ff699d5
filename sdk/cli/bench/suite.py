"""`skipstone bench suite`: decoding methods side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import (
    BundleArgument,
    DraftDeviceOption,
    OutputOption,
    Place,
    PlotOption,
    QuietOption,
    require_drafter,
    require_lossless,
)
from skipstone.cli.terminal import OutputFormat, csv_table, markdown_table, measures, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import Cell, Comparison

NAME = "suite"
EXAMPLES = """\b
Example:
  skipstone bench suite pebble --decode ngram,suffix+model,auto --plot speed.png"""
MEAN = "geometric mean"


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    suite: Annotated[str, typer.Option(metavar="NAME", help="The prompts.")] = "code",
    decode: Annotated[str, typer.Option(metavar="METHODS", help="Such as ngram+model,auto.")] = "auto",
    draft_device: DraftDeviceOption = None,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to make.")] = 128,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that count, after one that warms up.")] = 3,
    exact: Annotated[
        bool | None, typer.Option("--exact/--no-exact", help="As in generate: --no-exact drafts on, up to near ties.")
    ] = None,
    plot: PlotOption = None,
    output: OutputOption = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Compare decoding methods on prompts.

    They run in turn on the same prompts, each against plain decoding.
    """
    from skipstone.bench import Suite, compare, method_names, plot_comparison, require_plot

    require_lossless(decode.replace("+", ",").split(","), "bench")
    prompts, names = Suite.named(suite), method_names(decode.split(","))
    require_drafter([name.replace("+", ",") for name in names], None, draft_device)
    if plot is not None:
        require_plot(plot)
    model = place.load(bundle, draft_device=draft_device).runtime
    total = runs * prompts.num_prompts * len(names)
    with progress_bar("text", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        comparison = compare(
            model,
            prompts,
            names,
            new_tokens=new_tokens,
            rounds=runs,
            exact=exact,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    _show(comparison, output)
    if plot is not None:
        plot_comparison(comparison, plot)


def _show(comparison: Comparison, output: OutputFormat) -> None:
    if output is OutputFormat.json:
        print_json(comparison.to_json())
    elif output is OutputFormat.csv:
        write(csv_table([*_records(comparison)]))
    else:
        write(_markdown(comparison))


def _records(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield the setting and the figures of each method on each category, then the means."""
    setting = comparison.setting()
    for name in ("methods", "categories", "adversarial"):
        del setting[name]
    cells = [asdict(cell) for cell in comparison.cells()]
    for cell in cells:
        yield cell | setting
    for title, adversarial in _means(comparison):
        for method in comparison.methods:
            ratio = comparison.mean_ratio(method, adversarial=adversarial)
            yield dict.fromkeys(cells[0]) | {"category": title, "method": method, "ratio": ratio} | setting


def _means(comparison: Comparison) -> list[tuple[str, bool]]:
    """Return the title of each mean, and whether it counts adversarial categories."""
    if not comparison.adversarial:
        return [(MEAN, True)]
    names = ", ".join(comparison.adversarial)
    return [(f"{MEAN} without {names}", False), (f"{MEAN} with {names}", True)]


def _markdown(comparison: Comparison) -> str:
    """Return the setting and three tables: speed, guesses, texts and memory."""
    setting = {
        name: ", ".join(value) if isinstance(value, tuple) else value
        for name, value in comparison.setting().items()
        if value is not None
    }
    speed = _rows(comparison, lambda cell: f"{cell.tokens_per_s:.0f}, {cell.ratio:.2f} x")
    for title, counted in _means(comparison):
        ratios = [comparison.mean_ratio(method, adversarial=counted) for method in comparison.methods]
        speed.append([title, *(f"{ratio:.2f} x" for ratio in ratios)])
    same_text = _rows(comparison, lambda cell: f"{cell.same_text:.0%}")
    for row, category in zip(same_text, comparison.categories, strict=True):
        row.append(_peak(comparison, category))
    return "\n".join(
        [
            measures(setting),
            markdown_table(["tokens/s, times plain", *comparison.methods], speed),
            markdown_table(["tokens a call, guesses accepted", *comparison.methods], _rows(comparison, _guesses)),
            markdown_table(["texts equal to plain's", *comparison.methods, "peak MB of all"], same_text),
        ]
    )


def _rows(comparison: Comparison, show: Callable[[Cell], str]) -> list[list[str]]:
    """Return a row for each category: its name, and what `show` makes of each method's cell."""
    return [
        [category, *(show(comparison.cell(category, method)) for method in comparison.methods)]
        for category in comparison.categories
    ]


def _guesses(cell: Cell) -> str:
    accepted = "none made" if cell.acceptance is None else f"{cell.acceptance:.0%}"
    return f"{cell.tokens_per_call:.2f}, {accepted}"


def _peak(comparison: Comparison, category: str) -> str:
    """Return the highest peak of all methods: they share one process, where theirs hardly differ."""
    peaks = [comparison.cell(category, method).peak_memory_bytes for method in comparison.methods]
    known = [peak for peak in peaks if peak is not None]
    return f"{max(known) / 1e6:.0f}" if known else "unknown"
