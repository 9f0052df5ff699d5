"""What a prompt begins with is computed once and kept in a file; later prompts that begin so read it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skipstone.runtime.engine import LEAST_LEFT, Model, Prefix, Sequence, save_prefix
from skipstone.runtime.generation import GenerationOptions, Piece

__all__ = ["PromptCache"]

# The file is renewed for a prompt that goes on beyond what it shares with the file by so many tokens.
RENEWED_BEYOND: Final = 256
# So many tokens at a prompt's end may be fed in another way where it ends inside a word; see `Borders`.
TAKEN_BACK: Final = 32


class PromptCache:
    """The cached rows of a prompt, from a file and for it.

    With `renews` the file is made when it is missing, and made anew for a prompt that goes on by 256 tokens or more
    beyond what it shares with the file, when the text has ended, or, where layers hold the last rows of a text only,
    when it begins. Else it is only read, once for any number of texts.
    Of the last text, `num_read` tokens were read in `read_s` seconds, which are not in its stats, and `num_kept` were
    written, `num_bytes` bytes.
    """

    def __init__(self, model: Model, file: Path, *, renews: bool = True) -> None:
        """Raises: BundleError for a file that is damaged or made for other weights; a missing one only where needed."""
        self.file, self.renews, self.model = file, renews, model
        self._prefix = None if renews else Prefix.open(file, model)
        self._is_due = False
        self.num_read = self.num_kept = self.num_bytes = 0
        self.read_s = 0.0

    def fill(self, sequence: Sequence, options: GenerationOptions) -> None:
        """Give a sequence that holds a prompt, uncached, the rows that the file has of it. Raises: BundleError."""
        start, self.num_kept, self.num_bytes, self.num_read = time.perf_counter(), 0, 0, 0
        prefix = Prefix.open(self.file, self.model) if self.renews and self._is_there() else self._prefix
        self._is_due = self.renews
        if prefix is not None:
            shared = prefix.num_shared(sequence.token_ids, is_long=sequence.will_be_long)
            self._is_due = self.renews and len(sequence.token_ids) - shared >= RENEWED_BEYOND
            self.num_read = prefix.fill(sequence, left=_num_left(options))
        self.read_s = time.perf_counter() - start

    def _is_there(self) -> bool:
        """Whether there is a file that is not empty, as a new temporary file is."""
        return self.file.exists() and (not self.file.is_file() or self.file.stat().st_size > 0)

    def keeping(self, sequence: Sequence, options: GenerationOptions, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Yield the pieces of the text behind the prompt; then write the file where it is missing or to be renewed.

        Raises: OutputError, behind the last piece.
        """
        if not self._is_due:
            yield from pieces
            return
        prompt, is_long = list(sequence.token_ids), sequence.will_be_long
        for piece in pieces:
            if sequence.cache.has_rings and not self.num_kept:  # rows leave as the text goes on, so at once
                self._keep(sequence, prompt, left=_num_left(options))
            yield piece
        if is_long == sequence.is_long and not self.num_kept:  # else the text has crossed the border of LongRoPE
            self._keep(sequence, prompt, left=_num_left(options))

    def _keep(self, sequence: Sequence, prompt: list[int], *, left: int) -> None:
        num_tokens = min(len(prompt) - left, sequence.num_cached)
        if (
            num_tokens > 0
            and sequence.cache.holds(num_tokens)
            and sequence.token_ids[:num_tokens] == prompt[:num_tokens]
        ):
            self.num_kept, self.num_bytes = num_tokens, save_prefix(self.file, sequence, num_tokens)

    def told(self) -> list[str]:
        """Return what was read and written for the last text, a line each."""
        read = f"prompt cache: {self.num_read:,} tokens read from {self.file} in {self.read_s:.2f} s"
        kept = f"prompt cache: {self.num_kept:,} tokens kept in {self.file}, {self.num_bytes / 1e6:,.1f} MB"
        return [line for line, count in ((read, self.num_read), (kept, self.num_kept)) if count]


def _num_left(options: GenerationOptions) -> int:
    """Return how many tokens of a prompt are fed anew in any case."""
    return TAKEN_BACK if options.complete_words else LEAST_LEFT
