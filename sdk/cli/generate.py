"""skipstone generate: a prompt becomes text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from skipstone.cli.drafts import DepthPainter, DraftPainter, speed_line, stats_table
from skipstone.cli.options import (
    BundleArgument,
    CalibrationOption,
    DecodeOption,
    DeviceOption,
    DialOption,
    DrafterOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SuffixMemoryOption,
    TemperatureOption,
    ThreadsOption,
    TopPOption,
    require_drafter,
    require_suffix,
)
from skipstone.cli.terminal import notes, print_json, write

if TYPE_CHECKING:
    from rich.console import Console

    from skipstone.runtime.generation import Generation, Piece, Stats

NAME = "generate"
EXAMPLES = """\b
Examples:
  skipstone generate pebble -p "def fibonacci(n):"
  skipstone generate pebble --temperature 0.7 --seed 1 --json < prompt.txt
  skipstone generate pebble -p "class Stack:" --decode suffix,recycle --stats
  skipstone generate my-bundle -p "x = " --decode exit --min-agreement 0.98"""


class RuleName(StrEnum):
    match = "match"
    rejection = "rejection"
    k_seq = "k-seq"


def run(
    bundle: BundleArgument,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue; default: standard input.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Most tokens to make.")
    ] = 128,
    min_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Fewest tokens to make, before a stop token may come.")
    ] = 0,
    decode: DecodeOption = "auto",
    drafter: DrafterOption = None,
    verify: Annotated[
        RuleName, typer.Option("--verify", help="Rule for drafts; only match keeps the text of a seed.")
    ] = RuleName.match,
    exact: Annotated[
        bool, typer.Option("--exact", help="The same bits with every drafter: feed rows in pairs, draft chains.")
    ] = False,
    min_agreement: Annotated[
        float | None,
        typer.Option(metavar="A", help="With an approximate --decode: share of tokens as the full model's, say 0.98."),
    ] = None,
    dial: DialOption = None,
    calibration: CalibrationOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens to make room for; default: the model's context.")
    ] = None,
    temperature: TemperatureOption = 0.0,
    top_k: Annotated[int, typer.Option(metavar="K", min=0, help="Keep the K likeliest tokens; 0 is off.")] = 0,
    top_p: TopPOption = 1.0,
    min_p: Annotated[
        float, typer.Option(metavar="P", help="Drop tokens below this share of the likeliest one; 0 is off.")
    ] = 0.0,
    typical: Annotated[
        float, typer.Option(metavar="P", help="Keep the most typical tokens up to this probability; 1 is off.")
    ] = 1.0,
    top_h: Annotated[
        float | None, typer.Option(metavar="A", help="Keep the likeliest tokens up to this share of the entropy.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(metavar="X", help="Above 1 discourages tokens of prompt and answer.")
    ] = 1.0,
    presence_penalty: Annotated[
        float, typer.Option(metavar="X", help="Taken once from the logits of tokens in the answer.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(metavar="X", help="Taken from them for each time they are in the answer.")
    ] = 0.0,
    no_repeat_ngram: Annotated[
        int, typer.Option(metavar="N", min=0, help="Never write the same N tokens in a row again; 0 is off.")
    ] = 0,
    seed: SeedOption = 0,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
    ] = None,
    stop_below: Annotated[
        float,
        typer.Option(metavar="P", help="End where the chance of the whole text falls below P: approximate; 0 is off."),
    ] = 0.0,
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --json: the N likeliest tokens at each position.")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Texts to make, with the seeds from --seed on.")] = 1,
    suffix_memory: SuffixMemoryOption = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Show what each drafter guessed and where the time went.")
    ] = False,
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Colour guessed tokens by their drafter.")] = False,
    show_depth: Annotated[
        bool, typer.Option("--show-depth", help="Colour tokens by the layers that made them, where not all did.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a prompt.

    The text goes to standard output as it comes, its speed to standard error. --decode takes auto, plain, or drafters:
    ngram, suffix, recycle, jacobi, lookahead; model, tree, staged and big-little where there is a small model; self,
    free and skip where the bundle has exits or stages. They all give plain decoding's text; int4 and int8
    models up to near ties, and with --exact to the bit.

    exit, adaptive, skipdecode, switch and cascade are approximate, and so is big-little with a --dial: --min-agreement
    says which share of tokens must be as the full model's, or --dial how far the method may go. `skipstone tune`
    calibrates them once, `skipstone eval --decode` shows what they cost and bring.
    """
    from skipstone.api import load
    from skipstone.errors import ConfigError
    from skipstone.language_model import generation_options
    from skipstone.runtime.generation import Generation
    from skipstone.runtime.methods import approximate_methods

    if logprobs is not None and not as_json:
        raise ConfigError("--logprobs is shown with --json only; add --json")
    if (show_drafts or stats) and (as_json or samples > 1):
        raise ConfigError("--stats and --show-drafts are for one text on the terminal; --json holds all figures")
    if show_depth and (as_json or samples > 1 or show_drafts):
        other = "--json" if as_json else "--samples" if samples > 1 else "--show-drafts"
        raise ConfigError(f"--show-depth is for one text on the terminal; leave {other} out")
    shallow = {name: method for name, method in approximate_methods().items() if method.only_writes}
    if show_depth and decode not in shallow:
        known = ", ".join(shallow)
        raise ConfigError(f"--show-depth colours what part of the layers made; --decode {decode} uses all, not {known}")
    options = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical": typical,
        "top_h": top_h,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "no_repeat_ngram": no_repeat_ngram,
        "seed": seed,
        "stop": stop or (),
        "stop_below": stop_below,
        "logprobs": logprobs,
        "decode": decode,
        "verify": verify.value,
        "exact": exact,
        "min_agreement": min_agreement,
        "dial": dial,
        "calibration": calibration,
    }
    require_suffix(decode, suffix_memory)
    require_drafter(decode, drafter)
    generation_options(**options)  # a wrong value is refused before the model is loaded
    text = sys.stdin.read() if prompt is None else prompt
    model = load(bundle, device=device, threads=threads, suffix_memory=suffix_memory, draft_model=drafter)
    console = notes(quiet=quiet)
    if samples > 1:
        _samples(model.samples(text, samples, context_length=context, **options), as_json, console, seed=seed)
        return
    pieces = model.stream(text, context_length=context, **options)
    if as_json:
        print_json(Generation.join(list(pieces)).to_json())
        return
    painter: DraftPainter | DepthPainter | None = None
    if show_depth:
        little = shallow[decode].uses_draft_model
        painter = DepthPainter(model.runtime, last_id=model.encode(text)[-1], little=little)
    elif show_drafts:
        painter = DraftPainter(model.runtime, last_id=model.encode(text)[-1])
    made = _print(pieces, painter)
    console.print(speed_line(made))
    if made.approximate is not None:
        console.print(f"approximate: {made.approximate}")
    if painter is not None:
        console.print(painter.legend())
    if stats:
        console.print(stats_table(made))


def _print(pieces: Iterator[Piece], painter: DraftPainter | DepthPainter | None) -> Stats:
    """Write the text as it comes and return what it cost."""
    stats = None
    for piece in pieces:
        write(piece.text if painter is None else painter.paint(piece))
        stats = piece.stats
    write("\n")
    assert stats is not None, "the last piece says what the text cost"
    return stats


def _samples(made: Iterator[Generation], as_json: bool, console: Console, *, seed: int) -> None:
    if as_json:
        print_json([generation.to_json() for generation in made])
        return
    for number, generation in enumerate(made):
        console.print(f"seed {seed + number}: {speed_line(generation.stats)}")
        if generation.stats.approximate is not None:
            console.print(f"approximate: {generation.stats.approximate}")
        write(generation.text + "\n")
