"""A tokenizer in one file, from whatever files a checkpoint has."""

from __future__ import annotations

from skipstone.exporters.checkpoints.tokenizer.kinds import (
    GPT2_SPLIT,
    QWEN2_SPLIT,
    Spaces,
    byte_level_bpe,
    sentencepiece_bpe,
    with_special_tokens,
)
from skipstone.exporters.checkpoints.tokenizer.rows import without_rowless
from skipstone.exporters.checkpoints.tokenizer.sentencepiece import Piece, PieceKind

__all__ = [
    "GPT2_SPLIT",
    "QWEN2_SPLIT",
    "Piece",
    "PieceKind",
    "Spaces",
    "byte_level_bpe",
    "sentencepiece_bpe",
    "with_special_tokens",
    "without_rowless",
]
