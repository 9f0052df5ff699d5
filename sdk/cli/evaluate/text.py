"""`skipstone eval text`: how well bundles predict a text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.evaluate.table import compare
from skipstone.cli.evaluate.text_files import read_documents
from skipstone.cli.options import Place, PlotOption, Printing, RequiredTextsOption, read_text
from skipstone.cli.terminal import print_columns, print_json, progress_bar

if TYPE_CHECKING:
    from skipstone.evaluate import EvalResult
    from skipstone.runtime.engine import Model

NAME = "text"
EXAMPLES = """\b
Examples:
  skipstone eval text pebble --text notes.txt
  skipstone eval text my-int4 my-int8 --reference my-fp32 --text chats.jsonl --plot sizes.png
  skipstone eval text my-int4 peer-q4_0.gguf --reference my-fp32 --text held-out.txt --no-speed"""
WINDOW = 1024


@unfold
def run(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders, or the word pebble.")],
    place: Place,
    printing: Printing,
    text: RequiredTextsOption,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="BUNDLE", help="Compare with this bundle, say in fp32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None,
    window: Annotated[int, typer.Option(metavar="N", min=2, help="Most tokens of a window.")] = WINDOW,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Of several bundles: do not time them.")] = False,
    plot: PlotOption = None,
) -> None:
    """Measure how well bundles predict texts.

    Perplexity and bits per byte; against a reference also KL and how often the likeliest token is the same.
    Several bundles make a table: MB, bits per weight, quality, also of the worst 1 % of tokens, memory, and tokens/s
    behind 0, 1000 and 3000 tokens; --plot draws KL over MB. GGUF files may stand among them where llama-cpp-python is
    installed: they read the same tokens. A text file that ends in .jsonl has a text or a chat in each line.
    """
    if len(bundles) > 1 or plot is not None or any(bundle.lower().endswith(".gguf") for bundle in bundles):
        compare(
            bundles,
            text,
            reference=reference,
            place=place,
            printing=printing,
            max_tokens=max_tokens,
            window=window,
            with_speed=not no_speed,
            plot=plot,
        )
        return
    (bundle,) = bundles
    _measure(bundle, text, place, printing, reference, max_tokens, window)


def _measure(
    bundle: str,
    paths: list[Path],
    place: Place,
    printing: Printing,
    reference: str | None,
    max_tokens: int | None,
    window: int,
) -> None:
    for path in paths:
        read_text(path)  # refused before the model is loaded
    model = place.load(bundle).runtime
    texts = read_documents(paths, model.chat_template)
    other = place.load_reference(reference).runtime if reference else None
    result = _evaluate(model, texts, other, max_tokens, window, quiet=printing.quiet)
    facts = {name: value for name, value in asdict(result).items() if value is not None}
    if printing.as_json:
        print_json(facts)
    else:
        print_columns((name.replace("_", " "), _readable(value)) for name, value in facts.items())


def _evaluate(
    model: Model, texts: list[str], reference: Model | None, max_tokens: int | None, window: int, *, quiet: bool
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
            window=window,
            on_progress=lambda count: progress.advance(task, count),
        )


def _readable(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
