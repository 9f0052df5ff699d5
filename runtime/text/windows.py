"""Texts cut into windows of tokens, as calibrations and searches read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf

from skipstone.runtime.text.tokenizer import Tokenizer

__all__ = ["LEAST_TOKENS", "WINDOW", "first_tokens", "windows_of"]

WINDOW = 512
LEAST_WINDOW = 16
LEAST_TOKENS = 2000


def windows_of(
    tokenizer: Tokenizer,
    texts: SequenceOf[str],
    size: int,
    *,
    least: int = LEAST_WINDOW,
    add_special_tokens: bool = True,
) -> list[list[int]]:
    """Return the tokens of texts in windows of `size`; a rest of a text that has less than `least` is left out."""
    windows = []
    for text in texts:
        token_ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        windows += [token_ids[start : start + size] for start in range(0, len(token_ids), size)]
    return [window for window in windows if len(window) >= min(least, size)]


def first_tokens(windows: Iterable[list[int]], most: int | None) -> Iterator[list[int]]:
    """Yield the first windows that hold `most` tokens together, the last one cut; all where that is None."""
    left = most
    for window in windows:
        yield window[:left]
        left = None if left is None else left - len(window[:left])
        if left == 0:
            return
