"""skipstone bench: how fast a bundle is here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.bench.replay import run_replay
from skipstone.cli.bench.suite import run_suite
from skipstone.cli.options import BundleArgument, DeviceOption, QuietOption, ThreadsOption, require_lossless
from skipstone.cli.terminal import OutputFormat, csv_table, measures, print_json, progress_bar, write
from skipstone.errors import ConfigError

NAME = "bench"
EXAMPLES = """\b
Examples:
  skipstone bench pebble
  skipstone bench my-bundle --prompt-tokens 1000 --runs 9 -o json
  skipstone bench pebble --suite code --decode ngram,suffix+model,auto
  skipstone bench my-bundle --replay texts.jsonl --decode ngram,auto"""


def run(
    bundle: BundleArgument,
    prompt_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of the random prompt; default: 128.")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Tokens to make; default: 96, of a suite 128.")
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Runs that count, after one that warms up; default: 5, of a suite 3."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="Compare decoding methods on prompts: code.")
    ] = None,
    decode: Annotated[
        str | None,
        typer.Option("--decode", metavar="METHODS", help="With --suite or --replay: such as ngram+model,auto."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="With --suite: draw the result to this file.")
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            "--replay", metavar="FILE", help="Estimate methods on recorded texts: .jsonl, text, folder of .py."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print the result.")] = OutputFormat.md,
    quiet: QuietOption = False,
) -> None:
    """Measure speed and memory of a bundle here.

    Load time, time to first token, prefill, decoding, peak memory; medians over the runs. With a suite: decoding
    methods in turn on the same prompts, each against plain decoding. With recorded texts: what methods that need only
    text would gain, with the cost of calls measured here.
    """
    require_lossless((decode or "").replace("+", ",").split(","), "bench")
    if replay:
        for option, value in (
            ("--suite", suite),
            ("--plot", plot),
            ("--prompt-tokens", prompt_tokens),
            ("--runs", runs),
        ):
            if value is not None:
                raise ConfigError(
                    f"{option} does not go with --replay, which takes its texts from files; leave one out"
                )
        run_replay(bundle, replay, decode or "plain,auto", device=device, threads=threads, output=output, quiet=quiet)
        return
    if suite is None:
        for option, value in (("--decode", decode), ("--plot", plot)):
            if value is not None:
                raise ConfigError(f"{option} is for comparing methods on texts; add --suite code")
        _run_random(bundle, prompt_tokens or 128, new_tokens or 96, runs or 5, device, threads, output, quiet)
        return
    if prompt_tokens is not None:
        raise ConfigError("--prompt-tokens is the length of a random prompt, and a suite has its own; leave one out")
    run_suite(
        bundle,
        suite,
        "auto" if decode is None else decode,
        new_tokens=new_tokens or 128,
        rounds=runs or 3,
        device=device,
        threads=threads,
        plot=plot,
        output=output,
        quiet=quiet,
    )


def _run_random(
    bundle: str,
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    device: str,
    threads: int | None,
    output: OutputFormat,
    quiet: bool,
) -> None:
    """Measure plain decoding after a prompt of random tokens."""
    from skipstone.api import resolve
    from skipstone.bench import benchmark

    with progress_bar("run", total=runs, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        result = benchmark(
            resolve(bundle),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            runs=runs,
            device=device,
            threads=threads,
            on_progress=lambda count: progress.update(task, completed=count),
        )
    record = asdict(result)
    if output is OutputFormat.json:
        print_json(record)
    else:
        write(csv_table([record]) if output is OutputFormat.csv else measures(record))
