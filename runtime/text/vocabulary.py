"""Two tokenizers side by side: whether they are the same, what their tokens spell, and which tokens they share."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.text.text_stream import BYTE_TOKEN, piece_bytes, plain_piece_bytes
from skipstone.runtime.text.tokenizer import Tokenizer

__all__ = [
    "SharedVocabulary",
    "Spelling",
    "num_unfinished_bytes",
    "same_but_for_rows",
    "same_tokenizer",
    "whole_characters",
]

# What is further back does not change how the end of a text is cut into tokens.
LOOK_BEHIND = 10


def same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """Return whether both give every token the same id and the same role; the models may pad their logits differently.

    How text is cut into tokens is not compared: it does not change what an id means. Cost: some 50 ms for 150,000
    tokens.
    """
    if a.vocab_size != b.vocab_size or a.special_ids != b.special_ids:
        return False
    return a.backend.get_vocab(with_added_tokens=True) == b.backend.get_vocab(with_added_tokens=True)


def same_but_for_rows(small: Tokenizer, large: Tokenizer, *, num_rows: int) -> bool:
    """Return whether one tokenizer is the other without the tokens from id `num_rows` on, for which a model has no row.

    Gemma 3 of 270 M lacks a token of an image, which its larger sisters have. Cost: as of `same_tokenizer`.
    """
    tokens = large.backend.get_vocab(with_added_tokens=True)
    shared = {token: token_id for token, token_id in tokens.items() if token_id < num_rows}
    special_ids = {token_id for token_id in large.special_ids if token_id < num_rows}
    return small.special_ids == special_ids and small.backend.get_vocab(with_added_tokens=True) == shared


class Spelling:
    """What the tokens of one tokenizer spell inside a text: a space is a space, whatever letter the vocabulary uses.

    Special tokens and ids outside the vocabulary spell nothing. Raises: ConfigError for a vocabulary that writes spaces
    neither as byte-level BPE nor as SentencePiece does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        steps = tokenizer.decoder_steps
        self._is_byte_level = steps == ("ByteLevel",)
        self._has_byte_tokens = "ByteFallback" in steps
        if not self._is_byte_level and not {"Metaspace", "Replace"} & set(steps):
            raise ConfigError(
                f"tokenizer decoder is {' + '.join(steps) or 'missing'}; a drafter with another tokenizer than the "
                "target needs ByteLevel alone, Metaspace or Replace in both; use a drafter with the target's tokenizer"
            )
        self.tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """Return the bytes of one token; they need not be whole characters."""
        if token_id not in self._known:
            self._known[token_id] = self._spell(token_id)
        return self._known[token_id]

    def all_below(self, size: int) -> Iterator[tuple[bytes, int]]:
        """Yield the bytes of each token below `size`, with its id. Cost: about 2 microseconds a token."""
        added = self.tokenizer.backend.get_added_tokens_decoder().keys()
        for token_id in range(size):
            piece = self.tokenizer.piece(token_id) if self._is_byte_level and token_id not in added else None
            yield (self.of(token_id) if piece is None else plain_piece_bytes(piece)), token_id

    def join(self, token_ids: Iterable[int]) -> bytes:
        """Return the bytes of tokens that follow each other."""
        return b"".join(map(self.of, token_ids))

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text that begins with these tokens, without the space that a tokenizer puts in front of a text.

        Broken characters become U+FFFD.
        """
        data, dropped = self.join(token_ids), 0
        first = next((token_id for token_id in token_ids if self.of(token_id)), None)
        if first is not None and data.startswith(b" "):
            dropped = len(self.of(first)) - len(self.tokenizer.decode([first]))
        return data[dropped:].decode("utf-8", "replace")

    def is_byte_token(self, token_id: int) -> bool:
        """Return whether the token is of the kind `<0x41>`."""
        piece = self.tokenizer.piece(token_id) if self._has_byte_tokens else None
        return piece is not None and BYTE_TOKEN.fullmatch(piece) is not None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a part of a text. A tokenizer may still put a space before it, and joins no cut word."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def window(self, token_ids: Sequence[int], end: int) -> int:
        """Return the place of the first token needed to see how the text up to `end` goes on.

        The tokens from there on have a text, and the first of them does not begin inside a character.
        """
        first = max(0, end - LOOK_BEHIND)
        start = next((index + 1 for index in reversed(range(first, end)) if not self.of(token_ids[index])), first)
        while start < end and self.of(token_ids[start])[0] & 0xC0 == 0x80:
            start += 1
        return start

    def continuation(self, token_ids: Sequence[int], text: str) -> list[int]:
        """Return the tokens of `text` where it goes on behind `token_ids`.

        Empty when the tokenizer would join the text with the last of `token_ids`. Cost: that of encoding the text and
        the window before it.
        """
        before = token_ids[self.window(token_ids, len(token_ids)) :]
        encoded = self.encode(self.join(before).decode("utf-8", "replace") + text)
        start, missing = len(encoded), len(text.encode())
        while missing > 0 and start > 0:
            start -= 1
            missing -= len(self.of(encoded[start]))
        return encoded[start:] if missing == 0 else []

    def _spell(self, token_id: int) -> bytes:
        piece = self.tokenizer.piece(token_id)
        if piece is None or token_id in self.tokenizer.special_ids:
            return b""
        if self._is_byte_level:
            return piece_bytes(piece)
        byte = BYTE_TOKEN.fullmatch(piece) if self._has_byte_tokens else None
        return bytes([int(byte[1], base=16)]) if byte else piece.replace("▁", " ").encode()


@dataclass(frozen=True, slots=True, eq=False)
class SharedVocabulary:
    """The tokens that a target and a drafter both have: `target_ids[i]` and `drafter_ids[i]` spell the same bytes, [C].

    Special and added tokens are left out, since equal names may have other roles. Where a vocabulary has two tokens for
    the same bytes (`A` and `<0x41>`), the one that encoding uses stands for both. `drafter_id` maps ids of
    the target, `target_id` those of the drafter.

    Source: token-level intersection (Timor et al., 2025).
    """

    target_ids: NDArray[np.int64]
    drafter_ids: NDArray[np.int64]
    target_size: int
    drafter_id: Mapping[int, int]
    target_id: Mapping[int, int]

    @classmethod
    def of(cls, target: Spelling, drafter: Spelling, *, target_size: int, drafter_size: int) -> SharedVocabulary:
        """Return what two tokenizers share; the sizes are those of the models' rows of logits.

        Cost: a second for vocabularies of 150,000 tokens.
        """
        ids_in_target, ids_in_drafter = _ids_by_bytes(target, target_size), _ids_by_bytes(drafter, drafter_size)
        pairs = sorted((ids_in_target[data], ids_in_drafter[data]) for data in ids_in_target.keys() & ids_in_drafter)
        target_ids, drafter_ids = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(target_ids, drafter_ids, target_size, dict(pairs), {mine: theirs for theirs, mine in pairs})

    def __len__(self) -> int:
        return len(self.target_ids)

    def share(self, weights: NDArray[np.float32]) -> float:
        """Return how much of the drafter's probability lies on shared tokens, 0..1; `weights` [V] need no scale."""
        return float(weights[self.drafter_ids].sum(dtype=np.float64) / weights.sum(dtype=np.float64))

    def to_target(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the drafter's row over the target's tokens [target's V]: -inf for a token that is not shared."""
        row = np.full(self.target_size, -np.inf, dtype=np.float32)
        row[self.target_ids] = logits[self.drafter_ids]
        return row


def _ids_by_bytes(spelling: Spelling, size: int) -> dict[bytes, int]:
    """Return the id of every ordinary token below `size` by its bytes."""
    backend = spelling.tokenizer.backend
    added = backend.get_added_tokens_decoder()
    token_ids = {token_id for token_id in backend.get_vocab(with_added_tokens=False).values() if token_id < size}
    # Of two tokens with the same bytes the later one is kept, so byte tokens come first.
    ordinary = sorted(token_ids - added.keys(), key=lambda token_id: (not spelling.is_byte_token(token_id), token_id))
    return {data: token_id for token_id in ordinary if (data := spelling.of(token_id))}


def num_unfinished_bytes(data: bytes) -> int:
    """Return how many bytes at the end are the beginning of a character of which the rest is to come."""
    decoder = getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-3:])
    return len(decoder.getstate()[0])


def whole_characters(data: bytes) -> str:
    """Return the text up to the first byte that is not of a whole character."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()
