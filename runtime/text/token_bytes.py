"""How many tokens a text has at least, told by its bytes: a text that cannot fit is refused before it is cut."""

from __future__ import annotations

from typing import Final

import tokenizers

__all__ = ["most_bytes_a_token"]

# How many bytes a normal form may make of one: marks that stand apart join their letters.
_SHRINKING: Final = {"None": 1, "NFC()": 4}
# What takes bytes away before a vocabulary sees them, or gives them to a token beside.
_TAKING: Final = ("Removed", "Whitespace", "Bert", "Metaspace", "Replace", "Strip")


def most_bytes_a_token(backend: tokenizers.Tokenizer) -> int | None:
    """Return how many bytes of a text one token stands for at most; None where a vocabulary does not tell.

    Byte-level vocabularies do: each character of a piece is a byte. Cost: a look at all pieces.
    """
    added = backend.get_added_tokens_decoder().values()
    shrinking = _SHRINKING.get(str(backend.normalizer))
    if shrinking is None or any(token.lstrip or token.rstrip for token in added):
        return None
    if "ByteLevel" not in str(backend.decoder):
        return None
    if any(taking in str(backend.pre_tokenizer) for taking in _TAKING) or "BPE" not in type(backend.model).__name__:
        return None
    longest = max((len(piece) for piece in backend.get_vocab(with_added_tokens=False)), default=0)
    return shrinking * max([longest, 1, *(len(token.content.encode()) for token in added)])
