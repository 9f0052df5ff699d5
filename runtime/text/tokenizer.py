"""Text to token ids and back, by the `tokenizer.json` of a bundle or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import tokenizers

from skipstone.errors import BundleError, TextError
from skipstone.runtime.bundle import beside, decoder_steps
from skipstone.runtime.text.guarded import as_errors
from skipstone.runtime.text.plain_specials import PlainSpecials
from skipstone.runtime.text.token_bytes import most_bytes_a_token

__all__ = ["Tokenizer", "require_text"]

# Shorter texts are cut in less than a moment.
LONG_TEXT: Final = 50_000
_AGAIN: Final = "copy it from the checkpoint, or export again"


def require_text(text: str) -> None:
    """Raise TextError when `text` holds half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"half a character, U+{ord(text[error.start]):04X}, at position {error.start}"
        raise TextError(f"text holds {half}; remove it, or read the text as UTF-8") from error


class Tokenizer:
    """A thin cover over the `tokenizers` library that never pads and never truncates."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        with as_errors(lambda reason: BundleError(f"tokenizer.json is damaged ({reason}); {_AGAIN}")):
            added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(token_id for token_id, token in added.items() if token.special)
        self.decoder_steps: tuple[str, ...] = decoder_steps(backend)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` in `folder`. Raises BundleError when it is missing or damaged."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise BundleError(f"{folder} holds no tokenizer.json; copy it from the checkpoint, or export again")
        with as_errors(lambda reason: BundleError(f"{path} is damaged ({reason}); {_AGAIN}")):
            return cls(tokenizers.Tokenizer.from_file(str(path)))

    @cached_property
    def plain_specials(self) -> PlainSpecials:
        """What keeps special tokens that a user spells as text."""
        return PlainSpecials(self.backend)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included. The model's logits may be padded to more."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`. Raises TextError when it holds half of a surrogate pair, or cannot be cut.

        Text from a chat template already holds its special tokens: encode it with `add_special_tokens=False`. Ctrl-C is
        heard while a long text is cut.
        """
        require_text(text)
        told = f"a text of {len(text)} characters cannot be cut into tokens"
        with as_errors(lambda reason: TextError(f"{told}: {reason}")):
            if len(text) < LONG_TEXT:
                return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
            (encoding,) = beside(lambda: self.backend.encode_batch([text], add_special_tokens=add_special_tokens))()
            return list(encoding.ids)

    def least_tokens(self, text: str) -> int:
        """How many tokens a text has at least, told by its bytes; 0 for short ones, and where nothing tells."""
        if len(text) < LONG_TEXT or (most := self._most_bytes) is None:
            return 0
        return len(text.encode("utf-8", "surrogatepass")) // most

    @cached_property
    def _most_bytes(self) -> int | None:
        return most_bytes_a_token(self.backend)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Broken bytes become U+FFFD; ids outside the vocabulary have no text."""
        with as_errors(lambda reason: TextError(f"{len(ids)} tokens have no text: {reason}")):
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def decode_after(self, previous_id: int | None, token_id: int) -> str:
        """The text that `token_id` adds behind `previous_id`: many decoders drop a space at the start of a text."""
        if previous_id is None:
            return self.decode([token_id])
        return self.decode([previous_id, token_id])[len(self.decode([previous_id])) :]

    def piece(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it, before any decoding; None outside the vocabulary."""
        return self.backend.id_to_token(token_id)

    def token(self, token_id: int) -> str:
        """The text of one token inside a text, for display; a special token shows its name, an unknown id nothing."""
        if token_id in self.special_ids:
            return self.piece(token_id) or ""
        if self.decoder_steps == ("ByteLevel",):
            return self.decode([token_id])  # behind itself, its first bytes could complete its last character
        return self.decode_after(token_id, token_id)
