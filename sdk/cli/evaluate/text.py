"""`skipstone eval text`: how well a bundle predicts a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, Place, Printing, RequiredTextsOption, read_text
from skipstone.cli.terminal import print_columns, print_json, progress_bar

if TYPE_CHECKING:
    from skipstone.evaluate import EvalResult
    from skipstone.runtime.engine import Model

NAME = "text"
EXAMPLES = """\b
Examples:
  skipstone eval text pebble --text notes.txt
  skipstone eval text my-int4 --text held-out.txt --reference my-fp32 --json"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    text: RequiredTextsOption,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None,
) -> None:
    """Measure how well a bundle predicts texts.

    Perplexity and bits per byte; against a reference also KL and how often the likeliest token is the same.
    """
    texts = [read_text(path) for path in text]
    model = place.load(bundle).runtime
    other = place.load(reference).runtime if reference else None
    result = _evaluate(model, texts, other, max_tokens, quiet=printing.quiet)
    facts = {name: value for name, value in asdict(result).items() if value is not None}
    if printing.as_json:
        print_json(facts)
    else:
        print_columns((name.replace("_", " "), _readable(value)) for name, value in facts.items())


def _evaluate(
    model: Model, texts: list[str], reference: Model | None, max_tokens: int | None, *, quiet: bool
) -> EvalResult:
    from skipstone.evaluate import evaluate

    total = sum(len(model.tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    total = min(total, max_tokens or total)
    with progress_bar("tokens", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        return evaluate(
            model,
            texts,
            reference=reference,
            max_tokens=max_tokens,
            on_progress=lambda count: progress.advance(task, count),
        )


def _readable(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
