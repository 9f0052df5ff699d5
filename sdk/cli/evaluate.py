"""skipstone eval: how well a bundle predicts a text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.options import BundleArgument, DeviceOption, JsonOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import print_columns, print_json, progress_bar

NAME = "eval"
EXAMPLES = """\b
Examples:
  skipstone eval pebble --text notes.txt
  skipstone eval my-int4 --text held-out.txt --reference my-fp32 --json"""


def run(
    bundle: BundleArgument,
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how well a bundle predicts texts.

    Perplexity and bits per byte; against a reference also KL and how often the likeliest token is the same.
    """
    from skipstone.api import load
    from skipstone.evaluation import evaluate

    texts = [_read(path) for path in text]
    model = load(bundle, device=device, threads=threads).runtime
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


def _read(path: Path) -> str:
    from skipstone.errors import ConfigError

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text:
        raise ConfigError(f"{path} is empty; give a text of some thousand words")
    return text
