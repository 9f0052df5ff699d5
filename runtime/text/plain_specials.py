"""Special tokens that the text of a message spells, kept as plain text in a prompt that a chat template writes.

A template writes special tokens of its own around messages, and rendered they look the same as those that a user types.
So each spelling in a message is marked before the template sees it, by a character that no message holds, and the
stretch of the prompt with marks, up to the template's own special tokens around it, is encoded as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import tokenizers

__all__ = ["PlainSpecials"]

# Characters for private use, of which one that no message holds becomes the mark.
_MARKS: Final = tuple(map(chr, range(0xF8FF, 0xF8DF, -1)))
# A shorter spelling is a word of any language.
_LEAST: Final = 2


class PlainSpecials:
    """The spellings of a vocabulary's special tokens; messages are marked with `mark` and prompts read by `encode`."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        specials = [token for token in backend.get_added_tokens_decoder().values() if token.special]
        self._tokens = {token.content: token for token in specials if len(token.content) >= _LEAST}
        longest = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest))) if longest else None
        self._folds = backend.normalizer is not None and any(token.normalized for token in specials)

    def marked(self, message: Any) -> tuple[Any, str | None]:
        """Return a message, or messages, with all spellings marked, and the mark; None where nothing is spelled."""
        if self._pattern is None or not any(self._spells(text) for text in _texts(message)):
            return message, None
        used = {character for text in _texts(message) for character in text}
        mark = next((mark for mark in _MARKS if mark not in used), _MARKS[0])
        return self._with_marks(message, mark), mark

    def encode(self, prompt: str, mark: str) -> list[int]:
        """Return the tokens of a rendered prompt, in which what was marked is text."""
        prompt = prompt.replace(json.dumps(mark)[1:-1], mark)  # as JSON of ASCII writes it
        ids, begin = list[int](), 0
        for start, end in self._between(prompt):
            if mark in prompt[start:end]:
                ids += self._ids(self._backend, prompt[begin:start])
                ids += self._ids(self._plain if start else self._plain_first, prompt[start:end].replace(mark, ""))
                begin = end
        return ids + self._ids(self._backend, prompt[begin:])

    def _between(self, prompt: str) -> Iterator[tuple[int, int]]:
        """Yield where the text between special tokens begins and ends, without the white space that those take."""
        assert self._pattern is not None, "something was marked"
        start = 0
        for match in [*self._pattern.finditer(prompt), None]:
            end = len(prompt) if match is None else match.start()
            if match is not None and self._tokens[match[0]].lstrip:
                end = max(start, len(prompt[:end].rstrip()))
            yield start, end
            if match is not None:
                start = match.end()
                if self._tokens[match[0]].rstrip:
                    start = len(prompt) - len(prompt[start:].lstrip())

    @staticmethod
    def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids if text else []

    @cached_property
    def _plain_first(self) -> tokenizers.Tokenizer:
        """The vocabulary for which special tokens are text, at the start of a prompt."""
        plain = tokenizers.Tokenizer.from_str(self._backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same behind the start, where no space is put before the text unless it is put everywhere."""
        state = re.sub(r'"prepend_scheme"\s*:\s*"first"', '"prepend_scheme":"never"', self._backend.to_str())
        plain = tokenizers.Tokenizer.from_str(state)
        plain.encode_special_tokens = True
        return plain

    def _spells(self, text: str) -> bool:
        assert self._pattern is not None, "asked where there are special tokens"
        return self._pattern.search(self._folded(text)) is not None

    def _folded(self, text: str) -> str:
        """Return a text as the vocabulary sees it, where that can make a special token of other letters."""
        assert self._pattern is not None, "asked where there are special tokens"
        if not self._folds or self._pattern.search(text):
            return text
        folded = str(self._backend.normalizer.normalize_str(text))
        return folded if self._pattern.search(folded) else text

    def _with_marks(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            assert self._pattern is not None, "something is spelled"
            return self._pattern.sub(lambda match: match[0][0] + mark + match[0][1:], self._folded(value))
        if isinstance(value, Mapping):
            return {key: self._with_marks(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._with_marks(item, mark) for item in value]
        return value


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
