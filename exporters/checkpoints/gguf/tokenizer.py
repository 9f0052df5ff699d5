"""The tokenizer of a GGUF file, as the files that a checkpoint would have: tokenizer.json and those around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.roles import PREFIX, as_used, chat_templates, role_id
from skipstone.exporters.checkpoints.gguf.words import WORDS, Words
from skipstone.exporters.checkpoints.tokenizer import (
    Piece,
    PieceKind,
    Spaces,
    byte_level_bpe,
    sentencepiece_bpe,
    with_special_tokens,
)

__all__ = ["read_tokenizer"]

_ROLES: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# What would change the ids of a text or the choice of a token, and is done in no tokenizer here; and where it is off.
_REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    f"{PREFIX}.add_sep_token": (False,),
    f"{PREFIX}.normalizer.lowercase": (False,),
    f"{PREFIX}.normalizer.strip_accents": (False,),
    f"{PREFIX}.suppress_tokens": ([],),
    f"{PREFIX}.token_type_count": (0, 1),
}
_TEMPLATE_FILES: Final = {"default": "chat_template.jinja", "tool_use": "chat_template_tool_use.jinja"}


def read_tokenizer(file: GgufFile) -> dict[str, bytes]:
    """The text files about tokens, by name: tokenizer.json, and the chat templates with the tokens that they need.

    Raises: UnsupportedModel, by name, for a kind of tokenizer or a setting that we do not know; CheckpointError for a
    damaged one.
    """
    _refuse_settings(file)
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
    config: dict[str, Any] = {f"{role}_token": text for role, text in special.items() if text is not None}
    config |= {f"add_{role}_token": stated for role, stated in ends.items()}
    texts = {"tokenizer.json": text, **_templates(file, config)}
    texts["tokenizer_config.json"] = json.dumps(config)
    return {name: content.encode() for name, content in texts.items()}


def _refuse_settings(file: GgufFile) -> None:
    """Raise UnsupportedModel for a setting that no tokenizer here has, unless it is off."""
    for key, off in _REFUSED.items():
        if (value := file.metadata.get(key)) is not None and value not in off:
            shown = "" if isinstance(value, list) else f" = {value!r}"
            raise UnsupportedModel(
                f"{file.path}: {key}{shown} is not supported: export the checkpoint that the file was made from"
            )


def _templates(file: GgufFile, config: dict[str, Any]) -> dict[str, str]:
    """The files of the chat templates; all by name go into `config` too, as transformers has them.

    Without a `default` there is no template to chat by, in llama.cpp either.
    """
    named = chat_templates(file)
    if "default" not in named:
        return {}
    if len(named) > 1:
        config["chat_template"] = [{"name": name, "template": text} for name, text in sorted(named.items())]
    return {place: named[name] for name, place in _TEMPLATE_FILES.items() if name in named}


def _pieces(file: GgufFile) -> list[Piece]:
    """All tokens by id, without the unused ones at the end, which fill up the rows of the embedding."""
    texts = _required(file, "tokens")
    kinds = file.metadata.get(f"{PREFIX}.token_type") or [PieceKind.NORMAL] * len(texts)
    scores = file.metadata.get(f"{PREFIX}.scores") or [0.0] * len(texts)
    known = {kind: PieceKind(kind) for kind in set(kinds)}
    pieces = [
        Piece(text=text, score=score, kind=known[kind]) for text, score, kind in zip(texts, scores, kinds, strict=True)
    ]
    while pieces and pieces[-1].kind is PieceKind.UNUSED:
        pieces.pop()
    return as_used(file, pieces)


def _text_of(file: GgufFile, pieces: list[Piece], role: str) -> str | None:
    """The token that has a role; None where the file gives the role to none, or to one that it does not have."""
    token_id = role_id(file, role)
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
    return tokenizer, {role: bool(file.metadata.get(f"{PREFIX}.add_{role}_token", ends[role])) for role in ends}


def _words(file: GgufFile) -> Words:
    name = _required(file, "pre")
    if name not in WORDS:
        raise UnsupportedModel(
            f"{file.path}: pre-tokenizer '{name}' is not known; known are {', '.join(sorted(WORDS))}"
        )
    return WORDS[name]


def _byte_level(file: GgufFile, pieces: list[Piece], words: Words) -> tokenizers.Tokenizer:
    vocab = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    merges = [merge.partition(" ")[::2] for merge in _required(file, "merges")]
    tokenizer = byte_level_bpe(vocab, merges, splits=words.splits, nfc=words.nfc, ignore_merges=words.ignore_merges)
    added = [
        AddedToken(
            piece.text,
            special=piece.kind is not PieceKind.USER_DEFINED,
            normalized=False,
            lstrip=piece.lstrip,
            rstrip=piece.rstrip,
        )
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
        prefix="always" if file.metadata.get(f"{PREFIX}.add_space_prefix", True) else "never",
        squeeze=bool(file.metadata.get(f"{PREFIX}.remove_extra_whitespaces", False)),
    )
    charsmap = bytes(number % 256 for number in file.metadata.get(f"{PREFIX}.precompiled_charsmap") or ())
    return sentencepiece_bpe(escaped, spaces=spaces, charsmap=charsmap)


def _required(file: GgufFile, key: str) -> Any:
    value = file.metadata.get(f"{PREFIX}.{key}")
    if not value:
        raise CheckpointError(f"{file.path}: lacks {PREFIX}.{key}: convert the checkpoint again")
    return value
