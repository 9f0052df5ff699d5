"""skipstone generate: a prompt becomes text."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from skipstone.cli.options import BundleArgument, DeviceOption, JsonOption, QuietOption, ThreadsOption
from skipstone.cli.terminal import notes, print_json, write

NAME = "generate"
EXAMPLES = """Examples:

skipstone generate pebble -p "def fibonacci(n):"

echo "class Stack:" | skipstone generate pebble -n 64 --temperature 0.7 --top-p 0.9 --seed 1 --json"""


class DecodeName(StrEnum):
    plain = "plain"


def run(
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text; default: standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="At most so many tokens.")] = 128,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="No stop token before so many tokens.")] = 0,
    decode: Annotated[DecodeName, typer.Option("--decode", help="Decoding method.")] = DecodeName.plain,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens the cache holds; default: all.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep the K likeliest tokens; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this mass; 1 is off.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens below this share of the likeliest; 0 is off.")] = 0.0,
    typical: Annotated[float, typer.Option(help="Locally typical mass to keep; 1 is off.")] = 1.0,
    top_h: Annotated[float | None, typer.Option(help="Share of the entropy to keep (top-H).")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages tokens already seen.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken off tokens already generated, once.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Taken off tokens already generated, each time.")] = 0.0,
    no_repeat_ngram: Annotated[int, typer.Option(min=0, help="Never repeat N tokens in a row; 0 is off.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="STR", help="End before this text; repeatable.")] = None,
    logprobs: Annotated[int | None, typer.Option(min=0, help="Report the N likeliest tokens per position.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a prompt; text to standard output, speed to standard error."""
    from skipstone.api import load
    from skipstone.errors import ConfigError
    from skipstone.runtime.generation import Generation

    if logprobs is not None and not as_json:
        raise ConfigError("--logprobs is shown with --json only; add --json")
    text = sys.stdin.read() if prompt is None else prompt
    pieces = []
    model = load(bundle, device=device, threads=threads)
    for piece in model.stream(
        text,
        context_length=context,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical=typical,
        top_h=top_h,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        no_repeat_ngram=no_repeat_ngram,
        seed=seed,
        stop=stop or (),
        logprobs=logprobs,
    ):
        pieces.append(piece)
        if not as_json:
            write(piece.text)
    result = Generation.join(pieces)
    if as_json:
        print_json(result.to_json())
        return
    write("\n")
    stats = result.stats
    notes(quiet=quiet).print(
        f"{stats.prompt_tokens} prompt tokens at {stats.prefill_tokens_per_s:.0f}/s, "
        f"{stats.new_tokens} new at {stats.decode_tokens_per_s:.1f}/s, peak {stats.peak_memory_bytes / 1e6:.0f} MB"
    )
