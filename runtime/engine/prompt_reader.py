"""Reads prompts by graphs of their own, where the bundle has some and the model is to use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from skipstone.runtime.bundle import PREFILL
from skipstone.runtime.engine.feed import Part
from skipstone.runtime.engine.runner import Runner

__all__ = ["PromptReader"]

READING: Final = Part(head=False, variant=PREFILL)


class PromptReader:
    """Which first tokens of a text are its prompt, and how many of these the graphs for prompts have read.

    They read all tokens of the prompt but the last, however many there are; the plain graphs read the last, and what
    follows. So which graph a row is from depends on the prompt alone, and the text does too: it is the same whether
    rows were cached before, in what pieces they were read, and which method decodes.

    Invariant: `num_read` < `num_prompt` unless both are 0, and the cache holds the first `num_read` rows.
    """

    def __init__(self, runner: Runner, *, is_on: bool) -> None:
        self._runner, self.is_on = runner, is_on
        self.num_prompt = self.num_read = 0

    def begin(self, num_tokens: int, num_cached: int) -> int:
        """Let the first tokens be the prompt; return how many cached rows it may keep: none that decoding wrote."""
        if not self.is_on:
            return num_cached
        self.num_prompt = num_tokens
        self.cut(num_tokens)
        return min(num_cached, self.num_read)

    def mark(self, num_read: int) -> None:
        """Note that the cache was given rows of the prompt that such graphs had read."""
        self.num_read = num_read if self.is_on else 0

    def read(self, token_ids: Sequence[int], num_cached: int) -> Iterator[int]:
        """Read what waits of the prompt, but for its last token; yield how many rows are cached after each piece."""
        end = self.num_prompt - 1
        while self.is_on and num_cached < end:
            stop = min(num_cached + self._runner.most_at_once, end)
            self._runner.read(token_ids[num_cached:stop], READING, length=num_cached)
            self.num_read = num_cached = stop
            yield stop

    def cut(self, num_tokens: int) -> None:
        """Note that the text has only so many tokens, or that so many may be kept."""
        self.num_prompt = min(self.num_prompt, num_tokens)
        self.num_read = min(self.num_read, max(self.num_prompt - 1, 0))

    def copy_from(self, other: PromptReader) -> None:
        self.num_prompt, self.num_read = other.num_prompt, other.num_read
