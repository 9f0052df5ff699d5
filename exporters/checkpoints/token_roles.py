"""What the tokens of a checkpoint are for: which begin a text, which end one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import tokenizers

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.end_tokens import listed, read_end_tokens
from skipstone.exporters.checkpoints.tokenizer import without_rowless
from skipstone.runtime.text import as_errors

__all__ = ["TokenRoles", "with_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRoles:
    """The token that begins a text, and those that end one with the places that say so.

    `special_ids` are all of these and padding, in order. `remarks` say which ends are left out.
    """

    bos_id: int | None
    ends: Mapping[int, str]
    special_ids: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, those first that a file states."""
        return tuple(self.ends)

    @classmethod
    def read(cls, checkpoint: Checkpoint, *, vocab_size: int) -> Self:
        """Return what the checkpoint says; generation_config.json overrides config.json.

        Raises: CheckpointError when the tokenizer cannot be read, or a first token is not one of the model's.
        """
        tokenizer = _tokenizer(checkpoint)
        settings = {**checkpoint.config, **checkpoint.generation_config}
        bos_ids = _known_ids(settings.get("bos_token_id"), "bos_token_id", vocab_size)
        ends, remarks = read_end_tokens(checkpoint, tokenizer, vocab_size=vocab_size)
        # Padding is never fed, and some checkpoints say -1 where they have none.
        pad_ids = [token_id for token_id in listed(settings.get("pad_token_id")) if _is_known(token_id, vocab_size)]
        return cls(
            bos_id=bos_ids[0] if bos_ids else None,
            ends=ends,
            special_ids=tuple(sorted({*bos_ids, *ends, *pad_ids})),
            remarks=remarks,
        )


def with_rows(checkpoint: Checkpoint, *, vocab_size: int) -> Checkpoint:
    """Return the checkpoint with a tokenizer whose tokens all have a row in the model; says which were left out.

    Raises: CheckpointError when the tokenizer cannot be read, or cannot spare the others.
    """
    text, left = without_rowless(checkpoint.texts["tokenizer.json"], _tokenizer(checkpoint), vocab_size)
    if not left:
        return checkpoint
    said = f"the vocabulary of {vocab_size} has no row for {len(left)} of tokenizer.json's tokens, such as {left[0]!r}"
    texts = {**checkpoint.texts, "tokenizer.json": text}
    return replace(checkpoint, texts=texts, remarks=(*checkpoint.remarks, f"{said}: plain text"))


def _tokenizer(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    source = checkpoint.source
    with as_errors(lambda reason: CheckpointError(f"tokenizer.json of {source} is not a tokenizer: {reason}")):
        return tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])


def _known_ids(value: object, key: str, vocab_size: int) -> tuple[int, ...]:
    """Return the token ids of one setting, each a token of the model."""
    for token_id in listed(value):
        if not _is_known(token_id, vocab_size):
            raise CheckpointError(f"{key} {token_id!r} is not a token of the model, whose vocabulary is {vocab_size}")
    return listed(value)


def _is_known(token_id: object, vocab_size: int) -> bool:
    return type(token_id) is int and 0 <= token_id < vocab_size
