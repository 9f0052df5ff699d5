"""skipstone choose: which of some answers follows a prompt."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.options import BundleArgument, DeviceOption, JsonOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import markdown_table, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.evaluate import ChoiceCase, ChoiceQuality
    from skipstone.language_model import LanguageModel

NAME = "choose"
EXAMPLES = """\b
Examples:
  skipstone choose pebble -p "for i in" --answer " range" --answer " self"
  skipstone choose my-bundle --answer yes --answer no --json < question.txt
  skipstone choose my-bundle -p "2 + 2 =" --answer 4 --answer 5 --dial 0.5
  skipstone choose my-bundle --cases cases.jsonl"""


def run(
    bundle: BundleArgument,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="Text before it; default: standard input, less a last newline."
        ),
    ] = None,
    answer: Annotated[
        list[str] | None, typer.Option("--answer", metavar="TEXT", help="A possible answer; give two or more.")
    ] = None,
    dial: Annotated[
        float | None,
        typer.Option(metavar="X", help="Decide at an exit where the best answer leads by more than X; default: 1."),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge five dials on cases instead, one JSON object a line.")
    ] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose the likeliest of some answers.

    The answer goes to standard output, its chance and the depth that decided to standard error. At --dial 1 all layers
    run. Below, later layers are left out where an exit is sure enough, which is approximate and wants a bundle with
    exits.

    With --cases: for dials from 1 down to 0.2, how often the choice is that of all layers, and the time of a choice.
    A case is {"prompt": "...", "answers": ["...", "..."]}; with "right": "..." it counts the right ones too.
    """
    from skipstone.api import load
    from skipstone.errors import ConfigError
    from skipstone.runtime.engine import exit_stages
    from skipstone.runtime.generation import require_answers, require_dial

    if cases is not None:
        from skipstone.evaluate import read_cases

        if prompt is not None or answer or dial is not None:
            raise ConfigError("--cases holds prompts and answers and tries five dials; leave out the other options")
        known = read_cases(cases)
        model = load(bundle, device=device, threads=threads)
        exit_stages(model.runtime)  # refuses a bundle without exits, where there is nothing to compare
        rows = _judge(model, known, quiet=quiet)
        _show(rows, bundle, len(known), as_json=as_json)
        return
    require_answers(answer or ())
    chosen_dial = 1.0 if dial is None else dial
    require_dial(chosen_dial)
    text = sys.stdin.read().removesuffix("\n") if prompt is None else prompt
    choice = load(bundle, device=device, threads=threads).choose(text, answer or (), dial=chosen_dial)
    if as_json:
        print_json(choice.to_json())
        return
    write(choice.answer + "\n")
    console = notes(quiet=quiet)
    chances = (f"{one!r} {'?' if chance is None else f'{chance:.3f}'}" for one, chance in choice.chances.items())
    console.print(f"{', '.join(chances)}; by {choice.depth} of {choice.num_layers} layers")
    if choice.approximate is not None:
        console.print(f"approximate: {choice.approximate}")


def _judge(model: LanguageModel, cases: list[ChoiceCase], *, quiet: bool) -> list[ChoiceQuality]:
    from skipstone.evaluate import evaluate_choices

    with progress_bar("cases", total=len(cases), count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        return evaluate_choices(model.runtime, cases, on_progress=lambda count: progress.advance(task, count))


def _show(rows: list[ChoiceQuality], bundle: str, num_cases: int, *, as_json: bool) -> None:
    if as_json:
        settings = [asdict(row) for row in rows]
        print_json({"bundle": bundle, "approximate": "choice", "cases": num_cases, "settings": settings})
        return
    judged = any(row.right is not None for row in rows)  # whether the cases say which answer is right
    head = ["dial", "agreement", *(["right"] if judged else []), "layers", "KL", "ms", "x all layers"]
    cells = [
        [
            f"{row.dial:g}",
            f"{row.agreement:.1%}",
            *([] if row.right is None else [f"{row.right:.1%}"]),
            f"{row.layers:.1%}",
            f"{row.kl:.4f}",
            f"{row.ms:.2f}",
            f"{rows[0].ms / row.ms:.2f}",
        ]
        for row in rows
    ]
    write(f"approximate decoding: choice, {num_cases} cases\n" + markdown_table(head, cells))
