"""Text out of tokens: pieces as they become final, then timing and why it ended."""

from __future__ import annotations

from skipstone.runtime.generation.batch import stream_batch
from skipstone.runtime.generation.beginning import Beginning, begin, borders_of
from skipstone.runtime.generation.choice import Choice, Normalize, choose, require_answers, require_dial
from skipstone.runtime.generation.generation import Generation, Piece, cancelled_piece, stream
from skipstone.runtime.generation.options import GenerationOptions
from skipstone.runtime.generation.samples import Samples
from skipstone.runtime.generation.side_by_side import require_side_by_side, stream_side_by_side, with_seed
from skipstone.runtime.generation.stats import Stats, peak_memory_bytes, process_peak_bytes
from skipstone.runtime.generation.watch import TextWatch

__all__ = [
    "Beginning",
    "Choice",
    "Generation",
    "GenerationOptions",
    "Normalize",
    "Piece",
    "Samples",
    "Stats",
    "TextWatch",
    "begin",
    "borders_of",
    "cancelled_piece",
    "choose",
    "peak_memory_bytes",
    "process_peak_bytes",
    "require_answers",
    "require_dial",
    "require_side_by_side",
    "stream",
    "stream_batch",
    "stream_side_by_side",
    "with_seed",
]
