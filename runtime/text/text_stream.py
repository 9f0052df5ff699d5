"""Token ids to text as they arrive, never half a character.

In a byte-level vocabulary a token is bytes, and an incremental UTF-8 decoder keeps what is not yet whole.
Any other vocabulary is decoded in pairs: the text of a token depends on the one before it and on nothing else,
save for byte tokens (`<0xE2>`), which are gathered until they are a character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Final, Protocol

from tokenizers.pre_tokenizers import ByteLevel

from skipstone.errors import ConfigError
from skipstone.runtime.text.tokenizer import Tokenizer

__all__ = ["BYTE_TOKEN", "TextStream", "piece_bytes", "plain_piece_bytes"]

BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT: Final = "\ufffd"


class TextStream:
    """The text of a growing list of tokens, without special tokens.

    Invariant: everything returned so far is final, and lacks at most the last three bytes of the whole text.
    All pushes and the flush together equal `tokenizer.decode` of all ids, with one exception: when a run of byte tokens
    (`<0xE2>`) breaks, `decode` gives up every character of the run; here those before the break were shown and stay.

    Cost per push does not grow with the text. Raises ConfigError for a decoder that mixes ByteLevel with other steps.
    """

    def __init__(self, tokenizer: Tokenizer, *, after: int | None = None) -> None:
        """`after` is the last token of the prompt: a text that goes on keeps the space before its first word.

        Behind a special token, such as the one that begins an answer, a text starts anew.
        """
        steps = tokenizer.decoder_steps
        if "ByteLevel" in steps and steps != ("ByteLevel",):
            raise ConfigError(f"tokenizer decoder is {' + '.join(steps)}; ByteLevel streams only when it stands alone")
        self._tokenizer = tokenizer
        self._joiner: _Joiner = _ByteLevelJoiner() if steps == ("ByteLevel",) else _PairJoiner(tokenizer, after)
        self._num_hidden = 0

    def hide(self, num_letters: int) -> None:
        """Leave out the next letters, which something before the text says."""
        self._num_hidden = num_letters

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        piece = self._tokenizer.piece(token_id)
        if piece is None or token_id in self._tokenizer.special_ids:
            return ""
        return self._shown(self._joiner.push(token_id, piece))

    def flush(self) -> str:
        """The rest at the end of the text: U+FFFD for a character that never became whole."""
        return self._shown(self._joiner.flush())

    def _shown(self, text: str) -> str:
        num_hidden = min(self._num_hidden, len(text))
        self._num_hidden -= num_hidden
        return text[num_hidden:]


class _Joiner(Protocol):
    def push(self, token_id: int, piece: str) -> str: ...

    def flush(self) -> str: ...


class _ByteLevelJoiner:
    """Tokens written in the 256 letters of byte-level BPE (GPT-2): each is a string of bytes."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int, piece: str) -> str:
        return self._utf8.decode(piece_bytes(piece))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _PairJoiner:
    """Tokens written as text (SentencePiece, WordPiece), with or without byte tokens between them.

    Invariant: `_pending` is the start of one character, so at most three bytes; empty once the run is `_broken`.
    """

    def __init__(self, tokenizer: Tokenizer, previous_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._has_byte_tokens = "ByteFallback" in tokenizer.decoder_steps
        self._previous_id = previous_id
        self._pending = b""
        self._broken = False

    def push(self, token_id: int, piece: str) -> str:
        previous_id, self._previous_id = self._previous_id, token_id
        match = BYTE_TOKEN.fullmatch(piece) if self._has_byte_tokens else None
        if match is None:
            return self.flush() + self._tokenizer.decode_after(previous_id, token_id)
        if previous_id is None and not self._tokenizer.decode([token_id]):
            return ""  # a space that the decoder strips from the start of a text
        return self._push_byte(int(match[1], base=16))

    def _push_byte(self, value: int) -> str:
        """Like the decoder: after the first broken character, every byte of the run is U+FFFD."""
        if self._broken:
            return _REPLACEMENT
        self._pending += bytes([value])
        try:
            text = self._pending.decode("utf-8")
        except UnicodeDecodeError as error:
            self._broken = error.reason != "unexpected end of data"
            return self._take_pending() if self._broken else ""
        self._pending = b""
        return text

    def flush(self) -> str:
        self._broken = False
        return self._take_pending()

    def _take_pending(self) -> str:
        text = _REPLACEMENT * len(self._pending)
        self._pending = b""
        return text


def _byte_letters() -> Mapping[str, int]:
    """The byte behind each letter of byte-level BPE: printable Latin-1 is itself, the rest follow from U+0100."""
    letters = sorted(ByteLevel.alphabet())
    itself = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    shifted = [letter for letter in letters if ord(letter) >= 256]
    return itself | dict(zip(shifted, sorted(set(range(256)) - set(itself.values())), strict=True))


_BYTE_OF: Final = _byte_letters()


def piece_bytes(piece: str) -> bytes:
    """The bytes of a token; an added token with any other letter stands for its own UTF-8."""
    if all(letter in _BYTE_OF for letter in piece):
        return bytes(_BYTE_OF[letter] for letter in piece)
    return piece.encode("utf-8")


_LATIN_OF: Final = {ord(letter): chr(value) for letter, value in _BYTE_OF.items()}


def plain_piece_bytes(piece: str) -> bytes:
    """The bytes of a token that was not added, as `piece_bytes` gives them, in a third of the time."""
    try:
        return piece.translate(_LATIN_OF).encode("latin-1")
    except UnicodeEncodeError:
        return piece_bytes(piece)
