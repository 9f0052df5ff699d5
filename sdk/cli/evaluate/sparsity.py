"""`skipstone eval sparsity`: what activation sparsity costs in quality, method beside method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.evaluate.text_files import read_documents
from skipstone.cli.options import Printing, RequiredTextsOption, numbers, read_text
from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.sparsity import Beside, SparsityOptions, SparsityRow

NAME = "sparsity"
EXAMPLES = """\b
Examples:
  skipstone eval sparsity ./SmolLM2-135M-Instruct --text chats.jsonl
  skipstone eval sparsity ./SmolLM2-135M-Instruct --text chats.jsonl --of ffn --at 25,50 --methods teal,cats
  skipstone eval sparsity ./SmolLM2-135M-Instruct --text chats.jsonl --of ffn --beside my-carved-bundle"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityFlags:
    """What is judged, and how."""

    methods: Annotated[
        str | None, typer.Option("--methods", metavar="NAME,...", help="teal, cats, chess, larosa; default: all.")
    ] = None
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="P,...", help="Percent of the work to save; default: 25,40,50,65."),
    ] = None
    of: Annotated[
        str,
        typer.Option("--of", metavar="layers|ffn", help="Whose work it is: all matrices of layers, or FFNs' alone."),
    ] = "layers"
    calibrate: Annotated[
        str,
        typer.Option("--calibrate", metavar="auto|FILE", help="Text to find thresholds on; auto: the packaged one."),
    ] = "auto"
    max_tokens: Annotated[int, typer.Option(metavar="N", min=256, help="Tokens to judge by.")] = 4096
    prompt: Annotated[
        int, typer.Option("--prompt", metavar="N", help="First tokens of each window of 256 that stay dense.")
    ] = 64
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which windows of the text are calibrated on.")] = 0


@unfold
def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder, GGUF file, or hub id of a dense model.")
    ],
    text: RequiredTextsOption,
    flags: SparsityFlags,
    printing: Printing,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="BUNDLE",
            help="Judge this bundle of it too, carved experts at each share that it knows; repeatable.",
        ),
    ] = None,
) -> None:
    """Measure what activation sparsity costs in quality.

    TEAL, CATS, CHESS and LaRoSA in float32, against the dense model in float32: KL, how often the likeliest token is
    the same, and perplexity. Saved is the share of the multiply-adds of all layers' matrices that are skipped, counted
    on the text, less what the method adds. It shows quality only: the skipped work is done all the same.
    """
    from skipstone.planning import plan

    for path in text:
        read_text(path)  # refused before a checkpoint is fetched
    planned = plan(checkpoint, precision="fp32")
    rows, options = _judge(planned, text, flags, beside or (), quiet=printing.quiet)
    if printing.as_json:
        print_json({"checkpoint": checkpoint, "of": options.of, "prompt": options.prompt, "rows": [*map(asdict, rows)]})
    else:
        write(_table(rows, options))


def _judge(
    planned: object, paths: Sequence[Path], flags: SparsityFlags, beside: Sequence[str], *, quiet: bool
) -> tuple[list[SparsityRow], SparsityOptions]:
    from skipstone.calibrate import template_of
    from skipstone.exporters import ExportPlan
    from skipstone.sparsity import AT, SparsityOptions, judge_sparsity

    assert isinstance(planned, ExportPlan), "only --via optimum plans otherwise"
    options = SparsityOptions(
        methods=flags.methods,
        at=numbers("--at", flags.at) if flags.at else AT,
        of=flags.of,
        calibrate=flags.calibrate,
        max_tokens=flags.max_tokens,
        prompt=flags.prompt,
        seed=flags.seed,
        beside=[*_besides(beside, planned)],
    )
    texts = read_documents(paths, template_of(planned))
    with progress_bar("judging", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        rows = judge_sparsity(planned, texts, options, on_progress=lambda share: progress.update(task, completed=share))
    return rows, options


def _besides(bundles: Sequence[str], planned: ExportPlan) -> Iterator[Beside]:
    from skipstone.cli.naming import bundle_folder
    from skipstone.sparsity import besides

    for bundle in bundles:
        yield from besides(bundle_folder(bundle), planned.architecture)


def _table(rows: Sequence[SparsityRow], options: SparsityOptions) -> str:
    head = ["method", "asked", "saved", "of FFNs", "of a step", "KL", "worst 1 %", "same top token", "perplexity"]
    first = rows[0].quality
    assert first is not None, "the dense model has a quality"
    return markdown_table(head, ([*_cells(row)] for row in rows)) + (
        f"\n{first.num_tokens} tokens behind prompts of {options.prompt}; asked: share of the work of "
        f"{'FFNs' if options.of == 'ffn' else 'all layers'}; of a step: with the head. No speed is measured here.\n"
    )


def _cells(row: SparsityRow) -> Iterator[str]:
    yield row.method
    yield "" if row.asked is None else f"{row.asked:.0%}"
    if row.quality is None:
        yield from (f"at most {row.reach:.0%}", *[""] * 6)
        return
    yield from (f"{share:.1%}" for share in (row.saved, row.saved_ffn, row.saved_step))
    for value in (row.quality.kl, row.quality.kl_worst):
        yield "" if value is None else f"{value:.4f}"
    yield "" if row.quality.top1_agreement is None else f"{row.quality.top1_agreement:.1%}"
    yield f"{row.quality.perplexity:.3f}"
