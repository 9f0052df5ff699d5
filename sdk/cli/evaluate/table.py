"""The table of `skipstone eval text`: several models of one checkpoint side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn

from skipstone.cli.evaluate.text_files import read_documents
from skipstone.cli.options import Place, Printing
from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.evaluate import ComparedModel

__all__ = ["compare"]


def compare(
    bundles: Sequence[str],
    paths: Sequence[Path],
    *,
    reference: str | None,
    place: Place,
    printing: Printing,
    max_tokens: int | None,
    window: int,
    with_speed: bool,
    plot: Path | None,
) -> None:
    """Measure models, print a row for each, and draw them."""
    from skipstone.bench import require_plot
    from skipstone.evaluate import DEPTHS, is_gguf

    if plot is not None:
        require_plot(plot)
        if reference is None:
            raise ConfigError("--plot draws KL against a reference; add --reference")
    given = [str(place.folder(bundle)) for bundle in bundles]
    reference = None if reference is None else str(place.folder(reference))
    source = next((name for name in ([reference] if reference else []) + given if not is_gguf(name)), None)
    if source is None:
        raise ConfigError("only GGUF files were given; add a bundle, which has the tokenizer to cut the text with")
    windows = _windows(source, paths, max_tokens, window)
    rows = _with_quality(given, windows, reference, place, quiet=printing.quiet)
    rows = _with_speed(rows, reference, DEPTHS if with_speed else (), place, quiet=printing.quiet)
    if printing.as_json:
        print_json({"reference": reference, "models": [_record(row) for row in rows]})
    else:
        write(_table(rows, reference, DEPTHS if with_speed else ()))
    if plot is not None:
        _draw(rows, plot)


def _windows(bundle: str, paths: Sequence[Path], max_tokens: int | None, window: int) -> list[list[int]]:
    from skipstone.evaluate import scored_windows
    from skipstone.runtime.bundle import Bundle
    from skipstone.runtime.text import ChatTemplate, Tokenizer

    opened = Bundle.open(Path(bundle))
    tokenizer = Tokenizer.load(opened.place)
    texts = read_documents(paths, ChatTemplate.load(opened.place, only=opened.manifest.files))
    return list(scored_windows(opened.manifest, tokenizer, texts, max_tokens=max_tokens, window=window))


def _with_quality(
    models: Sequence[str], windows: Sequence[Sequence[int]], reference: str | None, place: Place, *, quiet: bool
) -> list[ComparedModel]:
    from skipstone.evaluate import compare_quality

    names = {*models, *([reference] if reference else [])}
    total = len(names) * sum(len(window) - 1 for window in windows)
    with progress_bar("tokens", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        return compare_quality(
            models,
            windows,
            reference=reference,
            device=place.device,
            threads=place.fixed_threads,
            cache=place.cache_name,
            on_progress=lambda count: progress.advance(task, count),
        )


def _with_speed(
    rows: Sequence[ComparedModel], reference: str | None, depths: Sequence[int], place: Place, *, quiet: bool
) -> list[ComparedModel]:
    """Return the rows with memory and speed: all but the reference, which is there to compare with."""
    from skipstone.evaluate import compare_speed, speed_steps

    models = [row.model for row in rows if row.model != reference]
    total = speed_steps(len(models), depths)
    with progress_bar("timing", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        speeds = compare_speed(
            models,
            depths=depths,
            device=place.device,
            threads=place.fixed_threads,
            cache=place.cache_name,
            on_progress=lambda count: progress.advance(task, count),
        )
    known = dict(zip(models, speeds, strict=True))
    return [replace(row, speed=known.get(row.model)) for row in rows]


def _table(rows: Sequence[ComparedModel], reference: str | None, depths: Sequence[int]) -> str:
    head = ["model", "MB", "bits per weight", "perplexity", "KL", "worst 1 %", "same top token", "peak MB"]
    head += [f"tokens/s at {depth}" for depth in depths]
    names = _short_names([row.model for row in rows])
    cells = [
        [name + (" (reference)" if row.model == reference else ""), *_cells(row, depths)]
        for name, row in zip(names, rows, strict=True)
    ]
    return markdown_table(head, cells) + f"\n{rows[0].quality.num_tokens} tokens, threads: {rows[0].facts.threads}\n"


def _short_names(models: Sequence[str]) -> list[str]:
    """Return the last parts of the paths, or the whole paths where these are the same."""
    names = [Path(model).name for model in models]
    return names if len(set(names)) == len(names) else list(models)


def _cells(row: ComparedModel, depths: Sequence[int]) -> Iterator[str]:
    quality, speed = row.quality, row.speed
    yield f"{row.facts.num_bytes / 1e6:.1f}"
    yield f"{row.facts.bits_per_weight:.2f}"
    yield f"{quality.perplexity:.3f}"
    for value in (quality.kl, quality.kl_worst):
        yield "" if value is None else f"{value:.4f}"
    yield "" if quality.top1_agreement is None else f"{quality.top1_agreement:.1%}"
    yield "" if speed is None else f"{speed.peak_memory_bytes / 1e6:.0f}"
    for depth in depths:
        yield f"{speed.tokens_per_s[depth]:.1f}" if speed and depth in speed.tokens_per_s else ""


def _record(row: ComparedModel) -> dict[str, Any]:
    """Return the figures of a row, one below the other."""
    speed = {} if row.speed is None else asdict(row.speed)
    return {"model": row.model, **asdict(row.facts), **asdict(row.quality), **speed}


def _draw(rows: Sequence[ComparedModel], path: Path) -> None:
    from skipstone.bench import SizePoint, plot_sizes

    names = _short_names([row.model for row in rows])
    points = [
        SizePoint(name, row.facts.num_bytes / 1e6, row.quality.kl)
        for name, row in zip(names, rows, strict=True)
        if row.quality.kl is not None
    ]
    plot_sizes(points, title=f"size and quality, {rows[0].quality.num_tokens} tokens", path=path)
