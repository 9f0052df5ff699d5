"""skipstone chat: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skipstone.cli.options import (
    BundleArgument,
    DecodeOption,
    DeviceOption,
    QuietOption,
    SeedOption,
    SuffixMemoryOption,
    TemperatureOption,
    ThreadsOption,
    TopPOption,
    require_lossless,
    require_suffix,
)
from skipstone.cli.terminal import notes, write

NAME = "chat"
EXAMPLES = """\b
Examples:
  skipstone chat my-bundle --system "Answer in one sentence."
  skipstone chat pebble --temperature 0.7 --seed 3"""


def run(
    bundle: BundleArgument,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told first.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Most tokens of an answer.")
    ] = 256,
    decode: DecodeOption = "auto",
    suffix_memory: SuffixMemoryOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Talk to a model.

    Each turn computes only its new tokens. Ctrl-C stops an answer, Ctrl-D ends the talk.
    """
    from skipstone.api import load
    from skipstone.language_model import generation_options

    require_lossless(decode.split(","), "chat")
    require_suffix(decode, suffix_memory)
    options = generation_options(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, decode=decode
    )
    model = load(bundle, device=device, threads=threads, suffix_memory=suffix_memory)
    conversation, console = model.chat(system=system), notes(quiet=quiet)
    if model.runtime.chat_template is None:
        console.print(f"{bundle} has no chat template: it continues the bare text of all turns")
    while (text := _ask(console.is_terminal and not quiet)) is not None:
        if not text.strip():
            continue
        piece = None
        try:
            for piece in conversation.reply(text, options):
                write(piece.text)
        except KeyboardInterrupt:
            console.print("\nstopped", style="dim")
            continue
        write("\n")
        if piece is not None and piece.stats is not None:
            stats = piece.stats
            console.print(
                f"{stats.new_tokens} tokens at {stats.decode_tokens_per_s:.1f}/s, first after {stats.ttft_s:.2f} s",
                style="dim",
            )


def _ask(prompted: bool) -> str | None:
    """Return the next line of the user, or None at the end of input."""
    if prompted:
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
