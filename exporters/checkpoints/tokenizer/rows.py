"""A tokenizer without the tokens that the model has no row for: fed, they would be nothing, and never are they written.

Gemma 3 of 270 M and 1 B ship one, for images; some CodeLlamas ship those of infilling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final

import tokenizers

from skipstone.errors import CheckpointError
from skipstone.runtime.text import as_errors

__all__ = ["without_rowless"]

# A token that no others spell: a letter of the vocabulary, or one byte.
_LETTER: Final = re.compile(r".|<0x[0-9A-F]{2}>", re.DOTALL)


def without_rowless(data: bytes, backend: tokenizers.Tokenizer, num_rows: int) -> tuple[bytes, tuple[str, ...]]:
    """Return a tokenizer.json without the tokens from id `num_rows` on, and these tokens: their text is plain text.

    `backend` is what it was read as.
    Raises: CheckpointError where they cannot be spared: more than half of all, letters, or what goes around every text.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    rowless = sorted(
        (token for token, token_id in vocabulary.items() if token_id >= num_rows), key=vocabulary.__getitem__
    )
    if not rowless:
        return data, ()
    if 2 * len(rowless) > len(vocabulary):
        raise CheckpointError(
            f"tokenizer.json has {len(vocabulary)} tokens, but the model's vocabulary is {num_rows}: "
            "they do not belong together"
        )
    content = json.loads(data)
    added = {token["content"] for token in content["added_tokens"]}
    letter = next((token for token in rowless if token not in added and _LETTER.fullmatch(token)), None)
    if letter is not None:
        raise CheckpointError(
            f"tokenizer.json has the letter {letter!r} as token {vocabulary[letter]}, but the model's vocabulary is "
            f"{num_rows}: they do not belong together"
        )
    _cut(content, {*rowless})
    return _checked(json.dumps(content, ensure_ascii=False).encode(), backend, num_rows), tuple(rowless)


def _cut(content: dict[str, Any], rowless: Collection[str]) -> None:
    """Take tokens out of a tokenizer.json: from the added ones, the vocabulary and the merges."""
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in rowless]
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: token_id for token, token_id in model["vocab"].items() if token not in rowless}
    else:
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] not in rowless]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, rowless)]


def _touches(merge: str | list[str], rowless: Collection[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in rowless or right in rowless or left + right in rowless


def _checked(data: bytes, whole: tokenizers.Tokenizer, num_rows: int) -> bytes:
    """Return the text of the smaller tokenizer. Raises: CheckpointError unless all others kept their ids and places."""
    wanted = {
        token: token_id for token, token_id in whole.get_vocab(with_added_tokens=True).items() if token_id < num_rows
    }
    with as_errors(lambda reason: CheckpointError(f"tokenizer.json needs a token from id {num_rows} on: {reason}")):
        found = tokenizers.Tokenizer.from_buffer(data)
        same = found.get_vocab(with_added_tokens=True) == wanted
        same = same and max(found.encode("a").ids, default=0) < num_rows
    if not same:
        raise CheckpointError(
            f"tokenizer.json needs a token from id {num_rows} on, which is outside the model's vocabulary: "
            "they do not belong together"
        )
    return data
