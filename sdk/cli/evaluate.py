"""skipstone eval: how well a bundle predicts a text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from skipstone.cli.options import BundleArgument, DeviceOption, JsonOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import notes, print_json

NAME = "eval"
EXAMPLES = """Examples:

skipstone eval pebble --text notes.txt

skipstone eval my-int4 --text held-out.txt --reference my-fp32 --json"""


def run(
    bundle: BundleArgument,
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Also compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Stop after so many tokens.")] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Perplexity and bits per byte of texts; KL and top-1 agreement against a reference."""
    from skipstone.api import load
    from skipstone.evaluation import evaluate

    texts = [_read(path) for path in text]
    model = load(bundle, device=device, threads=threads).runtime
    other = load(reference, device=device, threads=threads).runtime if reference else None
    total = sum(len(model.tokenizer.encode(one, add_special_tokens=False)) for one in texts)
    console = notes(quiet=quiet)
    columns = (TextColumn("evaluating"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=min(total, max_tokens or total))
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
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)


def _read(path: Path) -> str:
    from skipstone.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
