"""skipstone choose: which of some answers follows a prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, ClosingOption, NormalizeName, NormalizeOption, Place, Printing
from skipstone.cli.standard_input import read_prompt
from skipstone.cli.terminal import notes, print_json, write
from skipstone.errors import ConfigError

NAME = "choose"
EXAMPLES = """\b
Examples:
  skipstone choose pebble -p "for i in" --answer " range" --answer " self"
  skipstone choose my-bundle --answer yes --answer no --json < question.txt
  skipstone choose my-bundle -p "2 + 2 =" --answer 4 --answer 5 --dial 0.5"""


def _refuse_cases(given: str | None) -> None:
    if given is not None:
        raise ConfigError("--cases has moved: use `skipstone eval choices BUNDLE --cases FILE`")


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
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
        float, typer.Option(metavar="X", help="Decide at an exit where the best answer leads by more than X.")
    ] = 1.0,
    normalize: NormalizeOption = NormalizeName.none,
    closing: ClosingOption = False,
    cases: Annotated[str | None, typer.Option(hidden=True, callback=_refuse_cases)] = None,
) -> None:
    """Choose the likeliest of some answers.

    An answer's score is the log probability of its tokens behind the prompt, whatever follows them. The answer goes to
    standard output, all chances and the depth that decided to standard error. At --dial 1 all layers run. Below, later
    layers are left out where an exit is sure enough, which is approximate and wants a bundle with exits.
    """
    from skipstone.runtime.generation import require_answers, require_dial

    require_answers(answer or ())
    require_dial(dial)
    text = read_prompt(None).removesuffix("\n") if prompt is None else prompt
    choice = place.load(bundle).choose(text, answer or (), dial=dial, normalize=normalize.value, closing=closing)
    if printing.as_json:
        print_json(choice.to_json())
        return
    write(choice.answer + "\n")
    console = notes(quiet=printing.quiet)
    chances = (f"{text!r} {chance:.3f}" for text, chance in choice.chances.items())
    console.print(f"{', '.join(chances)}; by {choice.depth} of {choice.num_layers} layers")
    if choice.approximate is not None:
        console.print(f"approximate: {choice.approximate}")
