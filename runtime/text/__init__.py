"""Between bytes and tokens: tokenizer, chat template, streaming, stop strings, windows of text."""

from __future__ import annotations

from skipstone.runtime.text.chat import ChatTemplate
from skipstone.runtime.text.stop_decision import StopDecision
from skipstone.runtime.text.stop_strings import StopStrings
from skipstone.runtime.text.text_builder import FinishReason, TextBuilder
from skipstone.runtime.text.text_stream import BYTE_TOKEN, TextStream
from skipstone.runtime.text.tokenizer import Tokenizer
from skipstone.runtime.text.vocabulary import (
    SharedVocabulary,
    Spelling,
    num_unfinished_bytes,
    same_tokenizer,
    whole_characters,
)
from skipstone.runtime.text.windows import LEAST_TOKENS, WINDOW, windows_of

__all__ = [
    "BYTE_TOKEN",
    "LEAST_TOKENS",
    "WINDOW",
    "ChatTemplate",
    "FinishReason",
    "SharedVocabulary",
    "Spelling",
    "StopDecision",
    "StopStrings",
    "TextBuilder",
    "TextStream",
    "Tokenizer",
    "num_unfinished_bytes",
    "same_tokenizer",
    "whole_characters",
    "windows_of",
]
