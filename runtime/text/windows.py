"""Texts cut into windows of tokens, as calibrations and searches read them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from skipstone.runtime.text.tokenizer import Tokenizer

__all__ = ["LEAST_TOKENS", "WINDOW", "windows_of"]

WINDOW = 512
LEAST_WINDOW = 16
LEAST_TOKENS = 2000


def windows_of(tokenizer: Tokenizer, texts: SequenceOf[str], *, most: int) -> list[list[int]]:
    """Return the tokens of texts in windows of at most 512 and `most`; short rests are left out."""
    size = min(WINDOW, most)
    windows = []
    for text in texts:
        token_ids = tokenizer.encode(text)
        windows += [token_ids[start : start + size] for start in range(0, len(token_ids), size)]
    return [window for window in windows if len(window) >= min(LEAST_WINDOW, size)]
