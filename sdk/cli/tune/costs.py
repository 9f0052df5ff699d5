"""skipstone tune: what a model call costs here, the ground of every plan; and how far exits may be believed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.bench import bench_texts
from skipstone.cli.options import (
    BundleArgument,
    DeviceOption,
    DrafterOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    read_text,
    require_drafter,
)
from skipstone.cli.terminal import _aligned, note_kept, print_json, progress_bar, write
from skipstone.cli.tune.exits import _calibrate

if TYPE_CHECKING:
    from skipstone.runtime.costs import CostCurve

NAME = "tune"
EXAMPLES = """\b
Examples:
  skipstone tune pebble
  skipstone tune my-bundle --seconds 10 --plot costs.png
  skipstone tune my-bundle --exits --text notes.txt --text more.txt
  skipstone tune my-bundle --skip --text notes.txt
  skipstone tune my-bundle --dial switch --text notes.txt"""
SECONDS = 3.0


def run(
    bundle: BundleArgument,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0.1, help=f"Time to measure; default: {SECONDS:.0f}.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the curve to this file.")] = None,
    exits: Annotated[
        bool, typer.Option("--exits", help="Calibrate the exits on texts instead, for --decode exit.")
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Search layers that drafts may leave out instead, for --decode skip.")
    ] = False,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", metavar="FILE", help="With --exits, --skip or --dial: UTF-8 text; repeatable."),
    ] = None,
    dial: Annotated[
        str | None,
        typer.Option("--dial", metavar="METHOD", help="Calibrate the dial of switch, cascade, ... on texts instead."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="With --dial: tokens to write at each setting; default: 4096.")
    ] = None,
    drafter: DrafterOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the cost curve of a bundle here, calibrate its exits or a dial, or search layers to skip.

    Milliseconds of a call for so many rows and cached tokens. `--decode auto` plans with it: this replaces the quick
    measurement of the first use. Measure again when the machine was busy.

    With --exits: from which confidence each exit may make a token on its own, for shares of tokens that are to be as
    the full model's. The text should be like that to be made, 10,000 tokens or more; default: the prompts of `bench`.

    With --skip: which layers to leave out when drafting, so that guesses come cheap and still often stand: one more at
    a time, along 2,048 tokens spread over the text, as long as drafts promise more.

    With --dial: how far the dial of an approximate method may be turned for such shares. It writes on from prompts
    spread over the text, and the full model judges that.
    """
    from skipstone.api import load
    from skipstone.errors import ConfigError

    if dial is not None:
        if exits or skip or seconds is not None or plot is not None:
            raise ConfigError(
                "--exits, --skip, --seconds and --plot measure something else; leave them out with --dial"
            )
        _calibrate_dial(bundle, dial, text, drafter, device, threads, max_tokens, as_json=as_json, quiet=quiet)
        return
    if drafter is not None or max_tokens is not None:
        raise ConfigError("--drafter and --max-tokens are for calibrating a dial; add --dial METHOD")
    if skip:
        if exits or seconds is not None or plot is not None:
            raise ConfigError("--exits, --seconds and --plot are for something else; leave them out with --skip")
        from skipstone.cli.tune.skip import search

        texts = [read_text(path) for path in text or ()] or bench_texts()
        search(load(bundle, device=device, threads=threads).runtime, texts, bundle, as_json=as_json, quiet=quiet)
        return
    if exits and (seconds is not None or plot is not None):
        raise ConfigError("--seconds and --plot are for the cost curve; leave them out with --exits")
    if text and not exits:
        raise ConfigError("--text is for calibrating exits; add --exits, --skip or --dial METHOD")
    if exits:
        texts = [read_text(path) for path in text or ()]
        model = load(bundle, device=device, threads=threads).runtime
        _calibrate(model, texts, bundle, as_json=as_json, quiet=quiet)
        return
    from skipstone.bundled import notes_folder
    from skipstone.runtime.costs import costs_note, measure_costs

    if plot is not None:
        from skipstone.bench import require_plot

        require_plot(plot)
    model = load(bundle, device=device, threads=threads).runtime
    with progress_bar("measuring", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        curve = measure_costs(
            model,
            budget_s=SECONDS if seconds is None else seconds,
            min_sweeps=3,
            max_sweeps=10**6,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    note = costs_note(model)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(curve, path)
    if plot is not None:
        from skipstone.bench import plot_costs

        plot_costs(curve, title=f"{bundle} on {model.device.name}, {model.device.threads} threads", path=plot)
    if as_json:
        print_json({"bundle": bundle, "device": model.device.name, "threads": model.device.threads, **asdict(curve)})
        return
    write(_table(curve))
    note_kept(path, "the curve is", kept=kept, quiet=quiet)


def _calibrate_dial(
    bundle: str,
    dial: str,
    text: list[Path] | None,
    drafter: str | None,
    device: str,
    threads: int | None,
    max_tokens: int | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from skipstone.api import load
    from skipstone.cli.tune.dial import calibrate, dial_method

    method = dial_method(dial)
    require_drafter(dial, drafter)
    texts = [read_text(path) for path in text or ()] or bench_texts()
    model = load(bundle, device=device, threads=threads, draft_model=drafter).runtime
    calibrate(model, method, texts, bundle, max_tokens=max_tokens, as_json=as_json, quiet=quiet)


def _table(curve: CostCurve) -> str:
    """Return milliseconds by rows and context, and beside them how often each guess must be right to pay."""
    head = ["rows", *(f"ms at {context}" for context in curve.contexts), "x one row", "pays from"]
    lines = []
    for index, rows in enumerate(curve.rows):
        times = [line[index] for line in curve.seconds]
        factor = times[0] / curve.seconds[0][0]
        pays = f"{(factor - 1) / (rows - 1):.0%}" if rows > 1 else ""
        lines.append([str(rows), *(f"{1e3 * seconds:.3g}" for seconds in times), f"{factor:.2f}", pays])
    return _aligned([head, *lines])
