"""A talk in the terminal: messages and commands in, answers out, each with its speed and seed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from skipstone.cli.asking import joined
from skipstone.cli.drafts import stats_table
from skipstone.cli.reading import ReadingLine
from skipstone.cli.talk.commands import run_command
from skipstone.cli.talk.rendering import open_answer
from skipstone.cli.terminal import print_json_line
from skipstone.errors import CacheFull, ConfigError, SkipstoneError, TextError

if TYPE_CHECKING:
    from rich.console import Console

    from skipstone.conversation import Conversation
    from skipstone.language_model import LanguageModel
    from skipstone.prompt_cache import PromptCache
    from skipstone.runtime.generation import GenerationOptions, Piece, Stats

__all__ = ["Source", "Talk"]

NUM_SEEDS = 2**64  # seeds lie below


class Source(Protocol):
    """Where messages come from."""

    def read(self) -> str | None: ...


class Talk:
    """One talk with its options. With `stops` a full context ends it; `as_json` writes an object for each answer."""

    def __init__(
        self,
        model: LanguageModel,
        conversation: Conversation,
        options: GenerationOptions,
        console: Console,
        *,
        cache: PromptCache | None = None,
        stops: bool = False,
        plain: bool = False,
        as_json: bool = False,
        quiet: bool = False,
    ) -> None:
        self.conversation, self._model, self._options, self._console = conversation, model, options, console
        self._cache, self._stops, self._plain, self._as_json, self._quiet = cache, stops, plain, as_json, quiet
        self._num_turns, self._has_told_drops = 0, False
        self._document: str | None = None
        self._stats: Stats | None = None

    def run(self, source: Source, *, takes_commands: bool) -> None:
        """Talk until the source ends."""
        while (text := source.read()) is not None:
            if not text.strip():
                continue
            try:
                self._take(text, takes_commands=takes_commands)
            except EOFError:
                return

    def tell(self, line: str) -> None:
        """Say something that is no answer."""
        self._console.print(line, style="dim")

    def tell_stats(self) -> None:
        """Say what the last answer cost, and how much of the context is used."""
        used = (
            f"{len(self.conversation.token_ids):,} of {self.conversation.context_length:,} tokens of the context used"
        )
        self.tell(used if self._stats is None else f"{stats_table(self._stats)}\n{used}")

    def attach(self, file: Path) -> None:
        """Put a text behind the next message. Raises: ConfigError where it is no text, or too long."""
        from skipstone.cli.options import read_text

        text = read_text(file)
        num_tokens, context = len(self._model.encode(text)), self.conversation.context_length
        if num_tokens >= context:
            raise ConfigError(
                f"{file} has {num_tokens:,} tokens, the context {context:,}; shorten it, or raise --context"
            )
        self._document = text
        self.tell(f"{file}: {num_tokens:,} tokens, behind the next message")

    def answer_again(self) -> None:
        """Answer the last message again, with other noise."""
        self._answer(None)

    def _take(self, text: str, *, takes_commands: bool) -> None:
        """Answer a message or do a command; what is refused is told. Raises: CacheFull where the talk stops there."""
        try:
            if takes_commands and text.startswith("/") and not text.startswith("//"):
                run_command(self, text)
                return
            message = text[1:] if takes_commands and text.startswith("//") else text
            self._answer(joined(message, self._document or ""))
            self._document = None
        except (CacheFull, TextError, ConfigError, SkipstoneError) as error:
            if self._stops and isinstance(error, CacheFull):
                raise
            self._refuse(error)

    def _refuse(self, error: SkipstoneError) -> None:
        line = " ".join(str(error).split())
        if self._as_json:
            print_json_line({"error": line})
        else:
            sys.stderr.write(f"skipstone: {line}\n")

    def _answer(self, text: str | None) -> None:
        """Answer a message, or the last one again."""
        options = self._seeded()
        with ReadingLine(quiet=self._quiet) as line:
            if text is None:
                pieces = self.conversation.regenerate(options, on_prompt=line)
            else:
                pieces = self.conversation.stream(text, options, on_prompt=line)
            self._show(pieces)
        self._num_turns += 1
        self._tell_cache()
        if self.conversation.num_dropped and not self._has_told_drops:
            self._has_told_drops = True
            full = f"the context of {self.conversation.context_length} tokens is full"
            self._console.print(f"{full}: the oldest turns leave, from now on too; --on-full stop ends the talk there")

    def _seeded(self) -> GenerationOptions:
        """Return the options of this turn: the first seed and one more for each, so that noise differs."""
        first = self._options.sampling.seed
        if first is None:
            return self._options
        seed = (first + self._num_turns) % NUM_SEEDS
        return replace(self._options, sampling=replace(self._options.sampling, seed=seed))

    def _show(self, pieces: Iterator[Piece]) -> None:
        """Write an answer as it comes, and its speed; Ctrl-C stops it."""
        if self._as_json:
            self._print(pieces)
            return
        answer, piece, is_stopped = open_answer(plain=self._plain), None, False
        try:
            for piece in pieces:
                answer.write(piece.text)
        except KeyboardInterrupt:
            if piece is None:  # the prompt was being read
                raise
            is_stopped = True
        answer.close()
        if is_stopped:
            self._console.print("stopped", style="dim")
        elif piece is not None and piece.stats is not None:
            self._tell_end(piece, piece.stats)

    def _print(self, pieces: Iterator[Piece]) -> None:
        from skipstone.runtime.generation import Generation

        made = Generation.join(list(pieces))
        self._stats = made.stats
        print_json_line(made.to_json(self._model.spell))

    def _tell_end(self, piece: Piece, stats: Stats) -> None:
        self._stats = stats
        seed = "" if stats.seed is None else f", seed {stats.seed}"
        speed = (
            f"{stats.new_tokens} tokens at {stats.decode_tokens_per_s:.1f}/s, first after {stats.ttft_s:.2f} s{seed}"
        )
        self._console.print(speed, style="dim")
        if piece.finish_reason == "loop":
            said = "the answer fell into a loop and was ended; --stop-loops 0 lets it run"
            self._console.print(said, style="dim")

    def _tell_cache(self) -> None:
        """Say once what the prompt cache did."""
        cache, self._cache = self._cache, None
        for line in () if cache is None else cache.told():
            self._console.print(line, style="dim")
