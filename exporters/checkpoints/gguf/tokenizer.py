"""The tokenizer of a GGUF file, as the files that a checkpoint would have: tokenizer.json and those around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.end_tokens import KNOWN_ENDS, TEXT_LIKE
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.tokenizer import (
    GPT2_SPLIT,
    QWEN2_SPLIT,
    Piece,
    PieceKind,
    Spaces,
    byte_level_bpe,
    sentencepiece_bpe,
    with_special_tokens,
)

__all__ = ["read_ends", "read_special_ids", "read_tokenizer"]

_PREFIX: Final = "tokenizer.ggml"
_ROLES: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_STOPS: Final = ("eos", "eot", "eom")
_FILLING: Final = ("fim_pad", "fim_rep", "fim_sep")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """How one kind of byte-level vocabulary cuts text into words, and what it does where the file does not say."""

    splits: tuple[str, ...] = (GPT2_SPLIT,)
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MARKS: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED: Final = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_TEKKEN_SPLIT: Final = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}{_MARKS}"
_ENDING: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O_SPLIT: Final = rf"{_CASED[0]}{_ENDING}|{_CASED[1]}{_ENDING}|\p{{N}}{{1,3}}{_MARKS}"
_FALCON_SPLITS: Final = (r"[\p{P}$+<=>^~|`]+", GPT2_SPLIT, r"[0-9][0-9][0-9]")

_GPT2: Final = _Words()
_LLAMA3: Final = _Words(splits=(_LLAMA3_SPLIT,), ignore_merges=True, add_bos=True)
_EACH_DIGIT: Final = _Words(splits=(r"\p{N}", GPT2_SPLIT))
# By `tokenizer.ggml.pre`.
_WORDS: Final[Mapping[str, _Words]] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "mpt", "jais", "granite-docling"), _GPT2),
    "olmo": _Words(nfc=True),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Words(splits=(_LLAMA3_SPLIT,))),
    "qwen2": _Words(splits=(QWEN2_SPLIT,), nfc=True),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2"), _Words(splits=(QWEN2_SPLIT,))),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "minerva-7b"), _EACH_DIGIT),
    "tekken": _Words(splits=(_TEKKEN_SPLIT,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), _Words(splits=(_GPT4O_SPLIT,))),
    "falcon": _Words(splits=_FALCON_SPLITS),
}


def read_special_ids(file: GgufFile) -> dict[str, Any]:
    """What generation_config.json would say of first, last and padding tokens; what the file does not say is left out.

    The ends of a turn and of a message end a text as well, as they do in llama.cpp.
    """
    found = {role: file.metadata.get(f"{_PREFIX}.{role}_token_id") for role in ("bos", "padding", *_STOPS)}
    stops = [found[role] for role in _STOPS if found[role] is not None]
    ids = {
        "bos_token_id": found["bos"],
        "eos_token_id": list(dict.fromkeys(stops)) or None,
        "pad_token_id": found["padding"],
    }
    return {key: value for key, value in ids.items() if value is not None}


def read_ends(file: GgufFile) -> dict[int, str]:
    """The tokens that the file says end a text, each with its key.

    A file that names no last token means the one that its kind of tokenizer has, where that is no word. What a model
    writes between two files ends a text too. Source: llama-vocab.cpp of llama.cpp.
    """
    keys = [f"{_PREFIX}.{role}_token_id" for role in (*_STOPS, *_FILLING)]
    ends: dict[int, str] = {}
    for key in keys:
        token_id = file.metadata.get(key)
        if token_id is not None:
            ends[token_id] = f"{ends[token_id]}, {key}" if token_id in ends else key
    return ends


def read_tokenizer(file: GgufFile) -> dict[str, bytes]:
    """The text files about tokens, by name: tokenizer.json, and the chat template with the tokens that it needs.

    Raises: UnsupportedModel, by name, for a kind of tokenizer that we do not know; CheckpointError for a damaged one.
    """
    try:
        pieces = _pieces(file)
        special = {role: _text_of(file, pieces, key) for role, key in _ROLES.items()}
        tokenizer, ends = _build(file, pieces)
        around = {place: special[role] if ends[role] else None for place, role in (("first", "bos"), ("last", "eos"))}
        text = with_special_tokens(tokenizer, [], **around).to_str()
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{file.path}: its tokenizer is damaged ({error}): fetch the file again") from error
    config = {f"{role}_token": text for role, text in special.items() if text is not None}
    texts = {
        "tokenizer.json": text,
        "tokenizer_config.json": json.dumps(config | {f"add_{role}_token": stated for role, stated in ends.items()}),
        "chat_template.jinja": file.metadata.get("tokenizer.chat_template"),
        "generation_config.json": json.dumps(read_special_ids(file)),
    }
    return {name: content.encode() for name, content in texts.items() if content is not None}


def _pieces(file: GgufFile) -> list[Piece]:
    """All tokens by id, without the unused ones at the end, which fill up the rows of the embedding."""
    texts = _required(file, "tokens")
    kinds = file.metadata.get(f"{_PREFIX}.token_type") or [PieceKind.NORMAL] * len(texts)
    scores = file.metadata.get(f"{_PREFIX}.scores") or [0.0] * len(texts)
    pieces = [
        _as_used(Piece(text=text, score=score, kind=PieceKind(kind)), file)
        for text, score, kind in zip(texts, scores, kinds, strict=True)
    ]
    while pieces and pieces[-1].kind is PieceKind.UNUSED:
        pieces.pop()
    return pieces


def _as_used(piece: Piece, file: GgufFile) -> Piece:
    """The piece; one that ends a turn by its name, though the file takes it for a word, as a special token.

    Source: llama-vocab.cpp of llama.cpp, "control-looking token", which looks at the name alone.
    """
    if piece.text not in KNOWN_ENDS or piece.kind not in (PieceKind.NORMAL, PieceKind.USER_DEFINED):
        return piece
    is_added = piece.kind is PieceKind.USER_DEFINED or not file.metadata.get(f"{_PREFIX}.token_type")
    written = piece.text in str(file.metadata.get("tokenizer.chat_template", ""))
    ends = written or (is_added and piece.text not in TEXT_LIKE)
    return replace(piece, kind=PieceKind.CONTROL) if ends else piece


def _text_of(file: GgufFile, pieces: list[Piece], role: str) -> str | None:
    """The token that has a role; None where the file gives the role to none, or to one that it does not have."""
    token_id = file.metadata.get(f"{_PREFIX}.{role}_token_id")
    return pieces[token_id].text if token_id is not None and 0 <= token_id < len(pieces) else None


def _build(file: GgufFile, pieces: list[Piece]) -> tuple[tokenizers.Tokenizer, dict[str, bool]]:
    """The tokenizer, and whether a first and a last token go around a text."""
    kind = _required(file, "model")
    if kind == "gpt2":
        words = _words(file)
        tokenizer, ends = _byte_level(file, pieces, words), {"bos": words.add_bos, "eos": False}
    elif kind == "llama":
        tokenizer, ends = _sentencepiece(file, pieces), {"bos": True, "eos": False}
    else:
        raise UnsupportedModel(f"{file.path}: tokenizer '{kind}' is not known; known are gpt2 and llama")
    return tokenizer, {role: bool(file.metadata.get(f"{_PREFIX}.add_{role}_token", ends[role])) for role in ends}


def _words(file: GgufFile) -> _Words:
    name = _required(file, "pre")
    if name not in _WORDS:
        raise UnsupportedModel(
            f"{file.path}: pre-tokenizer '{name}' is not known; known are {', '.join(sorted(_WORDS))}"
        )
    return _WORDS[name]


def _byte_level(file: GgufFile, pieces: list[Piece], words: _Words) -> tokenizers.Tokenizer:
    vocab = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    merges = [merge.partition(" ")[::2] for merge in _required(file, "merges")]
    tokenizer = byte_level_bpe(vocab, merges, splits=words.splits, nfc=words.nfc, ignore_merges=words.ignore_merges)
    added = [
        AddedToken(piece.text, special=piece.kind is not PieceKind.USER_DEFINED, normalized=False)
        for piece in pieces
        if piece.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.USER_DEFINED)
    ]
    return with_special_tokens(tokenizer, added)


def _sentencepiece(file: GgufFile, pieces: list[Piece]) -> tokenizers.Tokenizer:
    """Merges follow from scores. User-defined runs of spaces stand in the file as plain spaces."""
    _required(file, "scores")
    escaped = [
        replace(piece, text=piece.text.replace(" ", "\u2581")) if piece.kind is PieceKind.USER_DEFINED else piece
        for piece in pieces
    ]
    spaces = Spaces(
        prefix="always" if file.metadata.get(f"{_PREFIX}.add_space_prefix", True) else "never",
        squeeze=bool(file.metadata.get(f"{_PREFIX}.remove_extra_whitespaces", False)),
    )
    return sentencepiece_bpe(escaped, spaces=spaces)


def _required(file: GgufFile, key: str) -> Any:
    value = file.metadata.get(f"{_PREFIX}.{key}")
    if not value:
        raise CheckpointError(f"{file.path}: lacks {_PREFIX}.{key}: convert the checkpoint again")
    return value
