"""skipstone eval: how well a bundle predicts a text, and what approximate decoding makes of that."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.options import (
    BundleArgument,
    CalibrationOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    read_text,
)
from skipstone.cli.tables import markdown_table
from skipstone.cli.terminal import print_columns, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.exit_evaluation import ExitQuality
    from skipstone.runtime.model import Model

NAME = "eval"
EXAMPLES = """\b
Examples:
  skipstone eval pebble --text notes.txt
  skipstone eval my-int4 --text held-out.txt --reference my-fp32 --json
  skipstone eval my-bundle --text held-out.txt --decode exit --plot dial.png"""


def run(
    bundle: BundleArgument,
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None,
    decode: Annotated[
        str | None, typer.Option("--decode", metavar="METHOD", help="Judge approximate decoding instead: exit.")
    ] = None,
    min_agreement: Annotated[
        list[float] | None,
        typer.Option(metavar="A", help="With --decode: a setting to judge; repeatable; default: 1 down to 0.9."),
    ] = None,
    calibration: CalibrationOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="With --decode: draw speed over quality to this file.")
    ] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how well a bundle predicts texts.

    Perplexity and bits per byte; against a reference also KL and how often the likeliest token is the same.

    With --decode exit: at several settings how close tokens stay to the full model's, and what speed that brings.
    """
    from skipstone.api import load
    from skipstone.evaluation import evaluate

    _require_method(decode, reference, min_agreement, calibration, plot)
    texts = [read_text(path) for path in text]
    model = load(bundle, device=device, threads=threads).runtime
    if decode is not None:
        rows = _judge(model, texts, min_agreement, calibration, max_tokens, quiet=quiet)
        _show(rows, bundle, plot, as_json=as_json)
        return
    other = load(reference, device=device, threads=threads).runtime if reference else None
    total = sum(len(model.tokenizer.encode(one, add_special_tokens=False)) for one in texts)
    total = min(total, max_tokens or total)
    with progress_bar("tokens", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        result = evaluate(
            model,
            texts,
            reference=other,
            max_tokens=max_tokens,
            on_progress=lambda count: progress.advance(task, count),
        )
    facts = {name: value for name, value in asdict(result).items() if value is not None}
    if as_json:
        print_json(facts)
    else:
        print_columns((name.replace("_", " "), _readable(value)) for name, value in facts.items())


def _require_method(
    decode: str | None,
    reference: str | None,
    min_agreement: list[float] | None,
    calibration: Path | None,
    plot: Path | None,
) -> None:
    """Raise ConfigError for options that do not go together, before anything is loaded."""
    from skipstone.errors import ConfigError
    from skipstone.plot import require_plot
    from skipstone.runtime.depth.policy import require_agreement

    if decode is None and (min_agreement or calibration or plot):
        raise ConfigError("--min-agreement, --calibration and --plot judge approximate decoding; add --decode exit")
    if decode not in (None, "exit"):
        raise ConfigError(f"--decode takes exit here, got {decode}; lossless methods write plain decoding's text")
    if decode is not None and reference is not None:
        raise ConfigError("--decode compares with the bundle's own full model; leave --reference out")
    for one in min_agreement or ():
        require_agreement(one)
    if plot is not None:
        require_plot(plot)


def _judge(
    model: Model,
    texts: list[str],
    min_agreement: list[float] | None,
    calibration: Path | None,
    max_tokens: int | None,
    *,
    quiet: bool,
) -> list[ExitQuality]:
    from skipstone.exit_evaluation import SETTINGS, evaluate_exits
    from skipstone.runtime.depth.pairs import text_windows

    total = sum(map(len, text_windows(model, texts)))
    total = min(total, max_tokens or total)
    with progress_bar("tokens", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        return evaluate_exits(
            model,
            texts,
            settings=min_agreement or SETTINGS,
            calibration=calibration,
            max_tokens=max_tokens,
            on_progress=lambda count: progress.advance(task, count),
        )


def _show(rows: list[ExitQuality], bundle: str, plot: Path | None, *, as_json: bool) -> None:
    if plot is not None:
        from skipstone.plot import plot_exits

        plot_exits(rows, title=f"{bundle}, approximate decoding: exit", path=plot)
    if as_json:
        print_json({"bundle": bundle, "approximate": "exit", "settings": [asdict(row) for row in rows]})
        return
    head = ["min agreement", "exit", "leave", "agreement", "KL", "same text", "tokens/s", "x plain", "x expected"]
    cells = [
        [
            f"{row.min_agreement:g}",
            "none" if row.exit_layers is None else f"{row.exit_layers} layers",
            f"{row.early:.1%}",
            f"{row.agreement:.2%}",
            f"{row.kl:.4f}",
            f"{row.exact_match:.0%}",
            f"{row.tokens_per_s:.1f}",
            f"{row.times_plain:.2f}",
            f"{row.expected_times_plain:.2f}",
        ]
        for row in rows
    ]
    write("approximate decoding: exit\n" + markdown_table(head, cells))


def _readable(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
