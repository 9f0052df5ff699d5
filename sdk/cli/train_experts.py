"""skipstone train-experts: routers, stand-ins and boosts of a carved bundle, trained on what the dense model says."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from skipstone.cli.command import unfold
from skipstone.cli.options import Printing
from skipstone.cli.terminal import markdown_table, notes, print_json, progress_bar, write
from skipstone.cli.train_exits import StepsAndLoss

if TYPE_CHECKING:
    from skipstone.distill import ExpertTrainingPlan, LevelReport

NAME = "train-experts"
EXAMPLES = """\b
Examples:
  skipstone train-experts ./carved -o ./trained
  skipstone train-experts ./carved -o ./trained --active 0.75 --steps 600
  skipstone train-experts ./carved -o ./trained --text chats.jsonl"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTrainingFlags:
    """How the experts are trained."""

    active: Annotated[
        float | None,
        typer.Option("--active", metavar="SHARE", help="Train for this share alone; default: all levels in turn."),
    ] = None
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps of 128 tokens.")] = 300
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="How many tokens the model writes to learn from.")
    ] = 14_000
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="The highest one.")] = 0.01
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same bundle.")] = 0
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Threads; on a busy machine fewer are quicker.")
    ] = None


@unfold
def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Made by `export --experts`.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder of the trained bundle.")],
    training: ExpertTrainingFlags,
    printing: Printing,
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", help="Text, or chats in JSON lines; default: the model writes it."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished run; replace a finished bundle.")
    ] = False,
) -> None:
    """Train the experts of a bundle, without labels.

    While some of them run, they learn to say together what all say: the dense model of the bundle teaches, on texts
    that it writes itself. Routers change, and what stands in for experts that are left out; the weights stay, and so
    does the text with all experts. Where the KL on held-out text does not fall, the experts stay as they were. Needs
    torch: pip install skipstone[train].

    Interrupted, it goes on where it was when the same command is given again.
    """
    from skipstone.distill import ExpertTraining, plan_expert_training

    start = time.perf_counter()
    plan = plan_expert_training(bundle, output, text=text, training=ExpertTraining(**asdict(training)), restart=restart)
    console = notes(quiet=printing.quiet)
    console.print(f"training takes some {plan.memory_bytes / 1e9:.1f} GB of memory")
    reports = _train(plan, console, quiet=printing.quiet)
    if printing.as_json:
        facts = {"bundle": str(bundle), "output": str(plan.output), "steps": plan.training.steps}
        print_json({**facts, "kept": reports[0].kept, "levels": [_facts(report) for report in reports]})
    else:
        write(_table(reports))
    if not reports[0].kept:
        console.print("the KL did not fall, so the experts stay as they were; try more --steps or --tokens")
    console.print(f"{plan.output}: {plan.training.steps} steps, {time.perf_counter() - start:.1f} s")


def _train(plan: ExpertTrainingPlan, console: Console, *, quiet: bool) -> list[LevelReport]:
    """Train with a bar, from the step that an interrupted run reached."""
    from skipstone.distill import train_experts

    if plan.state is not None:
        console.print(f"going on from step {plan.first_step} of {plan.training.steps}, kept in {plan.run.path}")
    total = plan.training.steps
    try:
        with progress_bar("training", total=total, count=StepsAndLoss(), quiet=quiet) as (progress, task):
            progress.update(task, completed=plan.first_step)
            return train_experts(
                plan,
                on_text=lambda count: progress.update(task, description=f"writing, {count} tokens"),
                on_progress=lambda step, loss: progress.update(task, description="training", completed=step, loss=loss),
            )
    except KeyboardInterrupt:
        if plan.run.path.exists():
            console.print(f"kept in {plan.run.path}; the same command goes on from there")
        raise


def _facts(report: LevelReport) -> dict[str, float]:
    return {"active": report.share, "kl_before": report.kl_before, "kl_after": report.kl_after}


def _table(reports: list[LevelReport]) -> str:
    rows = [[f"{report.share:.0%}", f"{report.kl_before:.3f}", f"{report.kl_after:.3f}"] for report in reports]
    return markdown_table(["active", "KL before", "after"], rows)
