"""Tokenizers from their parts: SentencePiece BPE, Unigram, byte-level BPE, and the added tokens of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints.tokenizer.sentencepiece import Piece, PieceKind

__all__ = [
    "GPT2_SPLIT",
    "QWEN2_SPLIT",
    "Spaces",
    "byte_level_bpe",
    "sentencepiece_bpe",
    "unigram",
    "with_special_tokens",
]

GPT2_SPLIT: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE: Final = "▁"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """How a SentencePiece vocabulary treats spaces.

    `prefix` says where a space is put in front: before the text ("first"), before the text and every part of it
    behind an added token ("always"; the `legacy` of transformers), or nowhere ("never"). `squeeze` removes spaces
    at both ends, and all but one of several in a row.
    """

    prefix: Literal["first", "always", "never"] = "first"
    squeeze: bool = False


def sentencepiece_bpe(
    pieces: Sequence[Piece], *, spaces: Spaces | None = None, charsmap: bytes = b""
) -> tokenizers.Tokenizer:
    """The tokenizer of a SentencePiece BPE vocabulary; a byte piece for every byte makes it fall back to bytes.

    Control pieces are special tokens, user-defined ones are added tokens. Ids are those of the sentencepiece library,
    but a user-defined piece at the start of a text gets no space in front (as in transformers), and pieces of equal
    score merge in the order of the vocabulary.
    """
    pieces = _with_letters(pieces)
    model = models.BPE(
        vocab={piece.text: token_id for token_id, piece in enumerate(pieces)},
        merges=_merges(pieces),
        unk_token=next((piece.text for piece in pieces if piece.kind is PieceKind.UNKNOWN), None),
        fuse_unk=True,
        byte_fallback=_has_bytes(pieces),
    )
    return _sentencepiece(model, pieces, spaces or Spaces(), charsmap)


def unigram(pieces: Sequence[Piece], *, spaces: Spaces | None = None, charsmap: bytes = b"") -> tokenizers.Tokenizer:
    """The tokenizer of a SentencePiece Unigram vocabulary; the rest is as in `sentencepiece_bpe`.

    Raises: UnsupportedModel for unused pieces, which the tokenizers library would use.
    """
    unused = next((piece.text for piece in pieces if piece.kind is PieceKind.UNUSED), None)
    if unused is not None:
        raise UnsupportedModel(f"the Unigram vocabulary has the unused piece {unused!r}, which is not known")
    model = models.Unigram(
        vocab=[(piece.text, piece.score) for piece in pieces],
        unk_id=next((i for i, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN), None),
        byte_fallback=_has_bytes(pieces),
    )
    tokenizer = _sentencepiece(model, pieces, spaces or Spaces(), charsmap)
    if _has_bytes(pieces):
        # Unigram would find the byte piece in a text that holds its name; it finds no piece that is split.
        name_of_byte = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, name_of_byte])
    return tokenizer


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    splits: Sequence[str] = (GPT2_SPLIT,),
    nfc: bool = False,
    add_prefix_space: bool = False,
    ignore_merges: bool = False,
) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary in the 256 letters of byte-level BPE.

    `splits` are regular expressions that cut a text into words, one after the other; each match is a word, and so is
    what lies between. `nfc` composes characters first; `ignore_merges` takes a word that is a token as it is.
    Raises: UnsupportedModel for `add_prefix_space` with other splits than GPT-2's.
    """
    if add_prefix_space and tuple(splits) != (GPT2_SPLIT,):
        raise UnsupportedModel("add_prefix_space is known with the split of GPT-2 only")
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if tuple(splits) == (GPT2_SPLIT,):  # the library has this one built in, many times faster
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    else:
        steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, letters])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_special_tokens(
    tokenizer: tokenizers.Tokenizer, tokens: Iterable[AddedToken], *, first: str | None = None, last: str | None = None
) -> tokenizers.Tokenizer:
    """The same tokenizer, changed: `tokens` are found whole in a text, special ones are left out of decoded text.

    A token of the vocabulary keeps its id, any other is put behind. `first` and `last` are put around each encoded
    text; they must be tokens.
    """
    tokenizer.add_tokens(list(tokens))
    around = [token for token in (first, last) if token is not None]
    if around:
        ids = {token: tokenizer.token_to_id(token) for token in around}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*([first] if first is not None else []), "$A", *([last] if last is not None else [])],
            special_tokens=list(ids.items()),
        )
    return tokenizer


def _has_bytes(pieces: Sequence[Piece]) -> bool:
    return any(piece.kind is PieceKind.BYTE for piece in pieces)


def _with_letters(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, where the byte piece of a letter is the letter itself if longer pieces need it to be merged.

    SentencePiece merges letters that are no pieces (Gemma's tabs); the tokenizers library merges pieces only.
    """
    texts = {piece.text for piece in pieces}
    used = set("".join(piece.text for piece in pieces if piece.kind is PieceKind.NORMAL and len(piece.text) > 1))
    needed = {letter for letter in used if letter.isascii() and letter not in texts}
    letters = {f"<0x{ord(letter):02X}>": letter for letter in needed}
    return [
        Piece(text=letters[piece.text]) if piece.kind is PieceKind.BYTE and piece.text in letters else piece
        for piece in pieces
    ]


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, best score first."""
    normal = [piece for piece in pieces if piece.kind is PieceKind.NORMAL]
    texts = {piece.text for piece in normal}
    return [
        (left, right)
        for text in [piece.text for piece in sorted(normal, key=lambda piece: -piece.score)]
        for cut in range(1, len(text))
        if (left := text[:cut]) in texts and (right := text[cut:]) in texts
    ]


def _sentencepiece(
    model: models.Model, pieces: Sequence[Piece], spaces: Spaces, charsmap: bytes
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = _normalizer(spaces, charsmap)
    # Metaspace adds no space to a text that starts with one: a plain one counts, those already escaped do not.
    prefix = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme=spaces.prefix, split=False)
    escape = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([prefix, escape])
    bytes_to_text = [decoders.ByteFallback()] if _has_bytes(pieces) else []
    strip = [] if spaces.prefix == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), *bytes_to_text, decoders.Fuse(), *strip])
    tokenizer.add_tokens([token for piece in pieces if (token := _added(piece)) is not None])
    return tokenizer


def _normalizer(spaces: Spaces, charsmap: bytes) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if not spaces.squeeze:
        return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    steps += [
        normalizers.Replace(Regex(f"[ {_SPACE}]+\\z"), ""),
        normalizers.Replace(Regex(" {2,}"), " "),
    ]
    if spaces.prefix == "never":  # else a space in front stays, as the one that would be added
        steps.append(normalizers.Replace(Regex("\\A "), ""))
    return normalizers.Sequence(steps)


def _added(piece: Piece) -> AddedToken | None:
    """The added token that a piece is. One with a space is looked for after spaces were written as U+2581."""
    flags = {"lstrip": piece.lstrip, "rstrip": piece.rstrip}
    if piece.kind is PieceKind.USER_DEFINED:
        return AddedToken(piece.text, normalized=_SPACE in piece.text, special=False, **flags)
    if piece.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN):
        return AddedToken(piece.text, normalized=False, special=True, **flags)
    return None
