"""skipstone generate: a prompt becomes text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from skipstone.cli.options import (
    BundleArgument,
    DeviceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TemperatureOption,
    ThreadsOption,
    TopPOption,
)
from skipstone.cli.terminal import notes, print_json, write

if TYPE_CHECKING:
    from skipstone.runtime.generation import Piece, Stats

NAME = "generate"
EXAMPLES = """\b
Examples:
  skipstone generate pebble -p "def fibonacci(n):"
  skipstone generate pebble --temperature 0.7 --seed 1 --json < prompt.txt"""


class DecodeName(StrEnum):
    plain = "plain"


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
    decode: Annotated[DecodeName, typer.Option("--decode", help="Decoding method.")] = DecodeName.plain,
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
    logprobs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --json: the N likeliest tokens at each position.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a prompt.

    The text goes to standard output as it comes, its speed to standard error.
    """
    from skipstone.api import load
    from skipstone.errors import ConfigError
    from skipstone.language_model import generation_options
    from skipstone.runtime.generation import Generation

    if logprobs is not None and not as_json:
        raise ConfigError("--logprobs is shown with --json only; add --json")
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
        "logprobs": logprobs,
    }
    generation_options(**options)  # a wrong value is refused before the model is loaded
    text = sys.stdin.read() if prompt is None else prompt
    model = load(bundle, device=device, threads=threads)
    stream = model.stream(text, context_length=context, **options)
    if as_json:
        print_json(Generation.join(list(stream)).to_json())
    else:
        notes(quiet=quiet).print(_speed(_print(stream)))


def _print(stream: Iterator[Piece]) -> Stats:
    """Write the text as it comes and return what it cost."""
    stats = None
    for piece in stream:
        write(piece.text)
        stats = piece.stats
    write("\n")
    assert stats is not None, "the last piece says what the text cost"
    return stats


def _speed(stats: Stats) -> str:
    return (
        f"{stats.prompt_tokens} prompt tokens at {stats.prefill_tokens_per_s:.0f}/s, "
        f"{stats.new_tokens} new at {stats.decode_tokens_per_s:.1f}/s, peak {stats.peak_memory_bytes / 1e6:.0f} MB"
    )
