"""skipstone train-exits: adapters for the exits of a checkpoint, which the next export takes along."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn, Task
from rich.text import Text

from skipstone.cli.options import JsonOption, QuietOption, read_text
from skipstone.cli.terminal import markdown_table, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.train import ExitReport

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


def run(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder, GGUF file, or hub id; with -o also the word pebble.")
    ],
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File; default: exit_adapters.safetensors in CHECKPOINT."),
    ] = None,
    exits: Annotated[
        str, typer.Option("--exits", metavar="auto|4,8", help="Layers after which it may stop; auto: quarters.")
    ] = "auto",
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Inner size of an adapter; default: 32.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Steps of some 1,024 tokens; default: 300.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Instead: how often to go over the text.")
    ] = None,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="The highest one.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same file.")] = 0,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Share of the text, at its end, kept to judge.")
    ] = 0.05,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished run; replace a finished file.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the exits of a checkpoint on texts, without labels.

    A small adapter for each exit learns to say what the full model says; the model stays as it is. `export --exits`
    takes the adapters along. Needs torch: pip install skipstone[train].

    Interrupted, it goes on where it was when the same command is given again.
    """
    from skipstone.train import ExitTraining, plan_training, train

    start = time.perf_counter()
    training = ExitTraining(
        exits=exits,
        rank=rank,
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        held_out=held_out,
    )
    plan = plan_training(
        checkpoint, [read_text(path) for path in text], output=output, training=training, restart=restart
    )
    console = notes(quiet=quiet)
    if plan.first_step:
        console.print(f"going on from step {plan.first_step} of {plan.steps}, kept in {plan.run.path}")
    try:
        with progress_bar("training", total=plan.steps, count=StepsAndLoss(), quiet=quiet) as (progress, task):
            progress.update(task, completed=plan.first_step)
            reports = train(plan, on_progress=lambda step, loss: progress.update(task, completed=step, loss=loss))
    except KeyboardInterrupt:
        if plan.run.path.exists():
            console.print(f"kept in {plan.run.path}; the same command goes on from there")
        raise
    if as_json:
        facts = {"checkpoint": checkpoint, "output": str(plan.output), "steps": plan.steps, "rank": plan.rank}
        print_json({**facts, "num_tokens": plan.num_tokens, "exits": [asdict(report) for report in reports]})
    else:
        write(_table(reports))
    console.print(f"{plan.output}: {plan.steps} steps, {time.perf_counter() - start:.1f} s")


def _table(reports: list[ExitReport]) -> str:
    head = ["exit", "agreement before", "after", "KL before", "after"]
    return markdown_table(
        head,
        [
            [
                f"{one.num_layers} layers",
                f"{one.agreement_before:.1%}",
                f"{one.agreement_after:.1%}",
                f"{one.kl_before:.3f}",
                f"{one.kl_after:.3f}",
            ]
            for one in reports
        ],
    )
