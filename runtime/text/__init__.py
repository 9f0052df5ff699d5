"""Between bytes and tokens: tokenizer, chat template, streaming, stop strings, windows of text."""

from __future__ import annotations

from skipstone.runtime.text.borders import Border, Borders
from skipstone.runtime.text.chat import ChatTemplate
from skipstone.runtime.text.guarded import as_errors
from skipstone.runtime.text.loop_stop import CHAT_STOP_LOOPS, LoopStop
from skipstone.runtime.text.ngram_counts import NgramCounts
from skipstone.runtime.text.ngram_store import LONGEST_CONTEXT, NgramStore
from skipstone.runtime.text.stop_decision import StopDecision
from skipstone.runtime.text.stop_strings import StopStrings
from skipstone.runtime.text.suffix_index import LONGEST_MATCH, Continuation, SuffixIndex, TextIndex, overlapping
from skipstone.runtime.text.suffix_memory import SuffixMemory
from skipstone.runtime.text.text_builder import FinishReason, TextBuilder
from skipstone.runtime.text.text_stream import TextStream
from skipstone.runtime.text.tokenizer import Tokenizer, require_text
from skipstone.runtime.text.vocabulary import (
    SharedVocabulary,
    Spelling,
    num_unfinished_bytes,
    same_but_for_rows,
    same_tokenizer,
    whole_characters,
)
from skipstone.runtime.text.windows import LEAST_TOKENS, WINDOW, first_tokens, windows_of

__all__ = [
    "CHAT_STOP_LOOPS",
    "LEAST_TOKENS",
    "LONGEST_CONTEXT",
    "LONGEST_MATCH",
    "WINDOW",
    "Border",
    "Borders",
    "ChatTemplate",
    "Continuation",
    "FinishReason",
    "LoopStop",
    "NgramCounts",
    "NgramStore",
    "SharedVocabulary",
    "Spelling",
    "StopDecision",
    "StopStrings",
    "SuffixIndex",
    "SuffixMemory",
    "TextBuilder",
    "TextIndex",
    "TextStream",
    "Tokenizer",
    "as_errors",
    "first_tokens",
    "num_unfinished_bytes",
    "overlapping",
    "require_text",
    "same_but_for_rows",
    "same_tokenizer",
    "whole_characters",
    "windows_of",
]
