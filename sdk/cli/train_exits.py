"""skipstone train-exits: adapters for the exits of a checkpoint, which the next export takes along."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Task
from rich.text import Text

from skipstone.cli.command import unfold
from skipstone.cli.options import Printing, RequiredTextsOption, read_text
from skipstone.cli.terminal import markdown_table, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.train import ExitReport, TrainingPlan

NAME = "train-exits"
EXAMPLES = """\b
Examples:
  skipstone train-exits ./SmolLM2-135M --text notes.txt --text more.txt
  skipstone train-exits ./SmolLM2-135M --text notes.txt --exits 10,20 --epochs 2
  skipstone train-exits model-Q4_0.gguf --text notes.txt -o adapters.safetensors"""


class StepsAndLoss(MofNCompleteColumn):
    """Steps done, and the loss of the last one."""

    def render(self, task: Task) -> Text:
        """Return such as 12/300 KL 1.234."""
        loss = task.fields.get("loss")
        return super().render(task) if loss is None else super().render(task).append(f" KL {loss:.3f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFlags:
    """How the adapters are trained."""

    exits: Annotated[
        str, typer.Option("--exits", metavar="auto|4,8", help="Layers after which it may stop; auto: quarters.")
    ] = "auto"
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", help="Inner size of an adapter; default: 32.")] = (
        None
    )
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Steps of some 1,024 tokens; default: 300.")
    ] = None
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Instead: how often to go over the text.")
    ] = None
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="The highest one.")] = 1e-3
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same file.")] = 0
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Share of the text, at its end, kept to judge.")
    ] = 0.05


@unfold
def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder, GGUF file, or hub id; with -o also the word pebble.")
    ],
    text: RequiredTextsOption,
    training: TrainingFlags,
    printing: Printing,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File; default: exit_adapters.safetensors in CHECKPOINT."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished run; replace a finished file.")
    ] = False,
) -> None:
    """Train the exits of a checkpoint on texts, without labels.

    A small adapter for each exit learns to say what the full model says; the model stays as it is. `export --exits`
    takes the adapters along. Needs torch: pip install skipstone[train].

    Interrupted, it goes on where it was when the same command is given again.
    """
    from skipstone.train import ExitTraining, plan_training

    start, texts = time.perf_counter(), [read_text(path) for path in text]
    plan = plan_training(checkpoint, texts, output=output, training=ExitTraining(**asdict(training)), restart=restart)
    console = notes(quiet=printing.quiet)
    reports = _train(plan, console, quiet=printing.quiet)
    if printing.as_json:
        facts = {"checkpoint": checkpoint, "output": str(plan.output), "steps": plan.steps, "rank": plan.rank}
        print_json({**facts, "num_tokens": plan.num_tokens, "exits": [asdict(report) for report in reports]})
    else:
        write(_table(reports))
    console.print(f"{plan.output}: {plan.steps} steps, {time.perf_counter() - start:.1f} s")


def _train(plan: TrainingPlan, console: Console, *, quiet: bool) -> list[ExitReport]:
    """Train with a bar, from the step that an interrupted run reached."""
    from skipstone.train import train

    if plan.first_step:
        console.print(f"going on from step {plan.first_step} of {plan.steps}, kept in {plan.run.path}")
    try:
        with progress_bar("training", total=plan.steps, count=StepsAndLoss(), quiet=quiet) as (progress, task):
            progress.update(task, completed=plan.first_step)
            return train(plan, on_progress=lambda step, loss: progress.update(task, completed=step, loss=loss))
    except KeyboardInterrupt:
        if plan.run.path.exists():
            console.print(f"kept in {plan.run.path}; the same command goes on from there")
        raise


def _table(reports: list[ExitReport]) -> str:
    head = ["exit", "agreement before", "after", "KL before", "after"]
    cells = [
        [
            f"{report.num_layers} layers",
            f"{report.agreement_before:.1%}",
            f"{report.agreement_after:.1%}",
            f"{report.kl_before:.3f}",
            f"{report.kl_after:.3f}",
        ]
        for report in reports
    ]
    return markdown_table(head, cells)
