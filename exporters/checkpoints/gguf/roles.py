"""What the tokens of a GGUF file are for: which begin and end a text, and what the file leaves to its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from skipstone.exporters.checkpoints.end_tokens import KNOWN_ENDS, TEXT_LIKE
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.tokenizer import Piece, PieceKind

__all__ = ["PREFIX", "as_used", "chat_templates", "read_ends", "read_special_ids", "role_id"]

PREFIX: Final = "tokenizer.ggml"
_STOPS: Final = ("eos", "eot", "eom")
_FILLING: Final = ("fim_pad", "fim_rep", "fim_sep")
# What llama.cpp takes where a file of one kind of tokenizer names no token.
_UNSAID: Final = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {"bos": 11, "eos": 11}}
_TEMPLATE: Final = "tokenizer.chat_template"
# What no text holds but between the turns of a chat: <|im_start|>, <start_of_turn>, <|turn>, [|user|].
_MARKER: Final = re.compile(
    r"<\|[^\s<>|]+\|?>|<[^\s<>|]+\|>|<｜[^\s<>｜]+｜>|\[\|[^\s\[\]|]+\|\]|<(start|end)_of_[a-z]+>"
)
_NO_STRIP: Final = ("<unk>", "<s>", "<|endoftext|>")


def role_id(file: GgufFile, role: str) -> int | None:
    """The token that has a role, also where the file leaves it to its kind of tokenizer; None where there is none.

    Source: llama-vocab.cpp of llama.cpp. What it takes for a file that says nothing must be a special token here.
    """
    stated: int | None = file.metadata.get(f"{PREFIX}.{role}_token_id")
    if stated is not None:
        return stated
    unsaid = _UNSAID.get(str(file.metadata.get(f"{PREFIX}.model")), {}).get(role)
    kinds = file.metadata.get(f"{PREFIX}.token_type") or []
    is_special = unsaid is not None and unsaid < len(kinds) and kinds[unsaid] in (PieceKind.CONTROL, PieceKind.UNKNOWN)
    return unsaid if is_special else None


def read_special_ids(file: GgufFile) -> dict[str, Any]:
    """What generation_config.json would say of first, last and padding tokens; what the file does not say is left out.

    The ends of a turn and of a message end a text as well, as they do in llama.cpp.
    """
    found = {role: role_id(file, role) for role in ("bos", "padding", *_STOPS)}
    stops = [found[role] for role in _STOPS if found[role] is not None]
    ids = {
        "bos_token_id": found["bos"],
        "eos_token_id": list(dict.fromkeys(stops)) or None,
        "pad_token_id": found["padding"],
    }
    return {key: value for key, value in ids.items() if value is not None}


def read_ends(file: GgufFile) -> dict[int, str]:
    """The tokens that the file says end a text, each with its key. What a model writes between two files ends one too.

    Source: llama-vocab.cpp of llama.cpp, `special_eog_ids`.
    """
    ends: dict[int, str] = {}
    for role in (*_STOPS, *_FILLING):
        key, token_id = f"{PREFIX}.{role}_token_id", role_id(file, role)
        place = key if key in file.metadata else f"{key} of its kind of tokenizer"
        if token_id is not None:
            ends[token_id] = f"{ends[token_id]}, {place}" if token_id in ends else place
    return ends


def chat_templates(file: GgufFile) -> dict[str, str]:
    """The chat templates by name: `default`, and those that stand under names of their own, such as `tool_use`."""
    named = {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in file.metadata.items()
        if key.startswith(f"{_TEMPLATE}.") and isinstance(text, str)
    }
    default = file.metadata.get(_TEMPLATE)
    return named | ({"default": default} if isinstance(default, str) else {})


def as_used(file: GgufFile, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces as llama.cpp uses them: ends of turns are special, some tokens take the white space beside them."""
    written = "\n".join(chat_templates(file).values())
    pieces = [_special(piece, written) for piece in pieces]
    if _is_phi3(file):
        return [_strip_behind(piece) for piece in pieces]
    if any(name in str(file.metadata.get(f"{PREFIX}.pre")) for name in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        return [replace(piece, lstrip=True) if piece.text == "<mask>" else piece for piece in pieces]
    return pieces


def _special(piece: Piece, written: str) -> Piece:
    """The piece; one that the file takes for a word as a special token, where its name is that of one.

    An end of a turn always is, a marker where the chat template writes it; one that was added may be a part of answers.
    Source: llama-vocab.cpp of llama.cpp, "control-looking token", which looks at the name of an end alone.
    """
    if piece.kind not in (PieceKind.NORMAL, PieceKind.USER_DEFINED):
        return piece
    is_end, is_written = piece.text in KNOWN_ENDS, piece.text in written
    ends = is_end and (is_written or piece.text not in TEXT_LIKE)
    marks = piece.kind is PieceKind.NORMAL and is_written and _MARKER.fullmatch(piece.text) is not None
    return replace(piece, kind=PieceKind.CONTROL) if ends or marks else piece


def _is_phi3(file: GgufFile) -> bool:
    """Whether it is a Phi-3: by its name, as llama.cpp sees it, or by its architecture with Phi-3's kind of tokenizer.

    A converter writes "Phi 3" where the folder was called Phi-3.
    """
    name = str(file.metadata.get("general.name", "")).lower()
    has_pieces = file.metadata.get(f"{PREFIX}.model") == "llama"
    is_phi3 = file.metadata.get("general.architecture") == "phi3" and has_pieces
    return is_phi3 or any(spelling in name for spelling in ("phi-3", "phi3", "phi 3"))


def _strip_behind(piece: Piece) -> Piece:
    """The piece; a special or added one with the white space behind it, but for those that llama.cpp excepts."""
    added = piece.kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED, PieceKind.UNKNOWN) or piece.text == "</s>"
    return replace(piece, rstrip=True) if added and piece.text not in _NO_STRIP else piece
