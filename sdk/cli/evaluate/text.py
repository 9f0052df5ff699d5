"""skipstone eval: how well a bundle predicts a text, and what approximate decoding makes of that."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.options import (
    BundleArgument,
    CalibrationOption,
    DeviceOption,
    DialsOption,
    DrafterOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    read_text,
    require_drafter,
)
from skipstone.cli.terminal import print_columns, print_json, progress_bar

NAME = "eval"
EXAMPLES = """\b
Examples:
  skipstone eval pebble --text notes.txt
  skipstone eval my-int4 --text held-out.txt --reference my-fp32 --json
  skipstone eval my-bundle --text held-out.txt --decode exit --plot dial.png
  skipstone eval my-bundle --text held-out.txt --decode switch --dial 0.5,1,2
  skipstone eval my-bundle --text held-out.txt --stop-below 0,0.05,0.1,0.2,0.4"""


def run(
    bundle: BundleArgument,
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None,
    decode: Annotated[
        str | None,
        typer.Option(
            "--decode", metavar="METHOD", help="Judge approximate decoding instead: exit, switch, ...; see generate."
        ),
    ] = None,
    min_agreement: Annotated[
        list[float] | None,
        typer.Option(metavar="A", help="With --decode: judge what keeps this share of tokens; repeatable."),
    ] = None,
    dial: DialsOption = None,
    own: Annotated[
        bool, typer.Option("--own", help="With --decode exit: judge what it writes, not the texts as they are.")
    ] = False,
    drafter: DrafterOption = None,
    stop_below: Annotated[
        list[str] | None,
        typer.Option("--stop-below", metavar="P,...", help="Judge completions that end below this chance; repeatable."),
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

    With --decode: how close the tokens of an approximate method stay to the full model's, and what speed that brings,
    at several settings of its dial.

    With --stop-below: 100 completions of pieces of the texts; how many are suppressed, how long the others are, and how
    many of them are what the text goes on with.
    """
    from skipstone.api import load
    from skipstone.cli.evaluate.method import Judging, require_nothing_to_judge
    from skipstone.cli.evaluate.stops import judge_stops, stop_settings
    from skipstone.errors import ConfigError
    from skipstone.evaluate import evaluate

    if stop_below:
        if decode or reference or max_tokens or min_agreement or dial or own or calibration or plot or drafter:
            raise ConfigError("--stop-below judges completions of plain decoding; leave the other options out")
        settings = stop_settings(stop_below)
        texts = [read_text(path) for path in text]
        judge_stops(
            load(bundle, device=device, threads=threads).runtime, texts, settings, bundle, as_json=as_json, quiet=quiet
        )
        return
    judging = None
    if decode is None:
        require_nothing_to_judge(min_agreement, dial, calibration, plot, own=own)
    else:
        judging = Judging.of(
            decode,
            reference=reference,
            min_agreement=min_agreement,
            dial=dial,
            calibration=calibration,
            max_tokens=max_tokens,
            plot=plot,
            own=own,
        )
    require_drafter(decode or "plain", drafter)
    texts = [read_text(path) for path in text]
    model = load(bundle, device=device, threads=threads, draft_model=drafter).runtime
    if judging is not None:
        judging.run(model, texts, bundle, plot=plot, as_json=as_json, quiet=quiet)
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


def _readable(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
