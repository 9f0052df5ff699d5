"""skipstone bench --suite: decoding methods side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn

from skipstone.cli.terminal import OutputFormat, csv_table, markdown_table, measures, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import Cell, Comparison

__all__ = ["run_suite"]

MEAN = "geometric mean"


def run_suite(
    bundle: str,
    suite_name: str,
    methods: str,
    *,
    new_tokens: int,
    rounds: int,
    device: str,
    threads: int | None,
    plot: Path | None,
    output: OutputFormat,
    quiet: bool,
) -> None:
    """Compare decoding methods, given with commas between them, on a suite; print the result and draw it."""
    from skipstone.api import load
    from skipstone.bench import Suite, compare, method_names, plot_comparison, require_plot

    suite, names = Suite.named(suite_name), method_names(methods.split(","))
    if plot is not None:
        require_plot(plot)
    model = load(bundle, device=device, threads=threads).runtime
    total = rounds * suite.num_prompts * len(names)
    with progress_bar("text", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        comparison = compare(
            model,
            suite,
            names,
            new_tokens=new_tokens,
            rounds=rounds,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    if output is OutputFormat.json:
        print_json(comparison.to_json())
    elif output is OutputFormat.csv:
        write(csv_table([*_records(comparison)]))
    else:
        write(_markdown(comparison))
    if plot is not None:
        plot_comparison(comparison, plot)


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
        name: ", ".join(value) if isinstance(value, tuple) else value for name, value in comparison.setting().items()
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
