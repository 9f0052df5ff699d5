"""The file of a SentencePiece vocabulary (`tokenizer.model`): its pieces, and how it treats spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from skipstone.errors import CheckpointError, UnsupportedModel

__all__ = ["Piece", "PieceKind", "SentencePieceModel"]

_MODEL_TYPES: Final = {1: "Unigram", 2: "BPE", 3: "Word", 4: "Char"}


class PieceKind(IntEnum):
    """What a piece is for; the numbers are those of the file, and of GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token of a SentencePiece vocabulary. Its id is its place; a space is written as U+2581.

    `lstrip` and `rstrip` of an added token take the white space before or behind it.
    """

    text: str
    score: float = 0.0
    kind: PieceKind = PieceKind.NORMAL
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceModel:
    """The fields of a `tokenizer.model` that decide which ids a text gets.

    `algorithm` is "BPE" or "Unigram". `charsmap` is the table of character replacements as the file holds it, empty
    for none. `dummy_prefix`: a text gets a space in front. `squeeze_spaces`: no space at either end, and never two
    in a row. `bos` and `eos` are the first and last token of a text, None where the file has none.
    """

    algorithm: str
    pieces: tuple[Piece, ...]
    charsmap: bytes
    dummy_prefix: bool
    squeeze_spaces: bool
    bos: str | None
    eos: str | None

    @classmethod
    def parse(cls, data: bytes) -> SentencePieceModel:
        """Read the bytes of a `tokenizer.model`.

        Raises: CheckpointError for damaged bytes; UnsupportedModel for Word and Char models and rare options.
        """
        try:
            message = _message_class().FromString(data)
            pieces = tuple(_piece(entry, message.normalizer_spec) for entry in message.pieces)
        except (DecodeError, ValueError) as error:
            raise CheckpointError(f"not a SentencePiece model, or damaged ({error})") from error
        if not pieces:
            raise CheckpointError("not a SentencePiece model, or damaged: it holds no pieces")
        trainer, normalizer = message.trainer_spec, message.normalizer_spec
        _refuse_rare(message)
        return cls(
            algorithm=_MODEL_TYPES[trainer.model_type],
            pieces=pieces,
            charsmap=normalizer.precompiled_charsmap,
            dummy_prefix=normalizer.add_dummy_prefix,
            squeeze_spaces=normalizer.remove_extra_whitespaces,
            bos=_text_of(pieces, trainer.bos_id),
            eos=_text_of(pieces, trainer.eos_id),
        )


def _piece(entry: Any, normalizer: Any) -> Piece:
    text = entry.piece if normalizer.escape_whitespaces else entry.piece.replace(" ", "▁")
    return Piece(text=text, score=entry.score, kind=PieceKind(entry.type))


def _text_of(pieces: tuple[Piece, ...], token_id: int) -> str | None:
    """The text of the piece; None for the ids that the file gives to a token that it does not have."""
    return pieces[token_id].text if 0 <= token_id < len(pieces) else None


def _refuse_rare(message: Any) -> None:
    found = _MODEL_TYPES.get(message.trainer_spec.model_type, str(message.trainer_spec.model_type))
    if found not in ("BPE", "Unigram"):
        raise UnsupportedModel(f"it is a SentencePiece {found} model; BPE and Unigram models are known")
    if message.trainer_spec.treat_whitespace_as_suffix:
        raise UnsupportedModel("it writes spaces behind words (treat_whitespace_as_suffix), which is not known")
    if message.denormalizer_spec.precompiled_charsmap:
        raise UnsupportedModel("it changes characters when decoding (denormalizer_spec), which is not known")


_F: Final = descriptor_pb2.FieldDescriptorProto
# name: (number, type, default); only what we read: protobuf passes over every other field
_FIELDS: Final[Mapping[str, Mapping[str, tuple[int, int, str]]]] = {
    "Piece": {
        "piece": (1, _F.TYPE_STRING, ""),
        "score": (2, _F.TYPE_FLOAT, "0"),
        "type": (3, _F.TYPE_INT32, "1"),
    },
    "Trainer": {
        "model_type": (3, _F.TYPE_INT32, "1"),
        "treat_whitespace_as_suffix": (24, _F.TYPE_BOOL, "false"),
        "bos_id": (41, _F.TYPE_INT32, "1"),
        "eos_id": (42, _F.TYPE_INT32, "2"),
    },
    "Normalizer": {
        "precompiled_charsmap": (2, _F.TYPE_BYTES, ""),
        "add_dummy_prefix": (3, _F.TYPE_BOOL, "true"),
        "remove_extra_whitespaces": (4, _F.TYPE_BOOL, "true"),
        "escape_whitespaces": (5, _F.TYPE_BOOL, "true"),
    },
}
_PARTS: Final = {
    "pieces": (1, "Piece"),
    "trainer_spec": (2, "Trainer"),
    "normalizer_spec": (3, "Normalizer"),
    "denormalizer_spec": (5, "Normalizer"),
}


@cache
def _message_class() -> Any:
    """The class of the whole file, declared here so that nobody needs the sentencepiece package."""
    file = descriptor_pb2.FileDescriptorProto(
        name="skipstone_sentencepiece.proto", package="skipstone", syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, default) in fields.items():
            message.field.add(name=field, number=number, type=kind, label=_F.LABEL_OPTIONAL, default_value=default)
    whole = file.message_type.add(name="Model")
    for field, (number, part) in _PARTS.items():
        label = _F.LABEL_REPEATED if field == "pieces" else _F.LABEL_OPTIONAL
        whole.field.add(name=field, number=number, type=_F.TYPE_MESSAGE, type_name=f".skipstone.{part}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("skipstone.Model"))
