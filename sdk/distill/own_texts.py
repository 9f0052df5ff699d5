"""Texts that a model writes itself, to learn from: no other text is needed.

A chat model is shown how its template begins a user's words and goes on with them; then it answers. Another goes on
with beginnings from the text of the package. All is drawn at temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from skipstone.bundled import CALIBRATION_TEXT
from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import GenerationOptions, Piece, stream_batch, stream_side_by_side
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.text import ChatTemplate

__all__ = ["own_texts"]

_TOGETHER: Final = 8
_MOST_ASKED: Final = 48
_MOST_SAID: Final = 192
_BEGINNING: Final = 8
_MARK: Final = "0f7awords9c2e"


def own_texts(
    model: Model, num_tokens: int, seed: int, on_progress: Callable[[int], None] = lambda num_tokens: None
) -> list[list[int]]:
    """Return texts with at least so many tokens in all; equal seeds give equal texts. `on_progress` gets the tokens.

    Cost: each token is a step of plain decoding, _TOGETHER at a time.
    """
    texts: list[list[int]] = []
    for number in range(num_tokens):  # each round adds tokens, so it ends before
        beginnings = _beginnings(model, _round_seed(seed, 2 * number))
        options = _options(_round_seed(seed, 2 * number + 1), _MOST_SAID)
        said = _joined(stream_batch(model, beginnings, options), len(beginnings))
        texts += [[*beginning, *tokens] for beginning, tokens in zip(beginnings, said, strict=True)]
        on_progress(min(num_tokens, sum(map(len, texts))))
        if sum(map(len, texts)) >= num_tokens:
            break
    return texts


def _round_seed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number * _TOGETHER) % 2**63


def _options(seed: int, most: int) -> GenerationOptions:
    sampling = SamplingOptions(temperature=1.0, seed=seed)
    return GenerationOptions(max_new_tokens=most, sampling=sampling, decode="plain", exact=False)


def _joined(pieces: Iterator[tuple[int, Piece]], count: int) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in range(count)]
    for number, piece in pieces:
        texts[number].extend(piece.token_ids)
    return texts


def _beginnings(model: Model, seed: int) -> list[list[int]]:
    """Return what texts begin with, _TOGETHER of them."""
    template, words = model.chat_template, None
    if template is not None and (shown := _before_words(template)):
        words = _words(model, shown, seed)
    if words and template is not None:
        chats = [template.render([{"role": "user", "content": one}]) for one in words]
        return [model.tokenizer.encode(chat, add_special_tokens=False) for chat in chats]
    token_ids = model.tokenizer.encode(CALIBRATION_TEXT.read_text(encoding="utf-8"), add_special_tokens=False)
    first = [] if model.manifest.bos_id is None else [model.manifest.bos_id]
    starts = [(seed + number) * 7919 % max(1, len(token_ids) - _BEGINNING) for number in range(_TOGETHER)]
    return [[*first, *token_ids[start : start + _BEGINNING]] for start in starts]


def _before_words(template: ChatTemplate) -> str:
    """Return what a template writes before a user's words; empty where it shows no words of a user."""
    try:
        text = template.render([{"role": "user", "content": _MARK}], add_generation_prompt=False)
    except ConfigError:
        return ""
    before, found, _ = text.partition(_MARK)
    return before if found else ""


def _words(model: Model, shown: str, seed: int) -> list[str]:
    """Return what users might say, as the model goes on with `shown`."""
    sequence = model.new_sequence(context_length=_length(model, shown))
    sequence.append(model.tokenizer.encode(shown, add_special_tokens=False))
    pieces = stream_side_by_side(model, sequence, _options(seed, _MOST_ASKED), count=_TOGETHER)
    texts = [""] * _TOGETHER
    for number, piece in pieces:
        texts[number] += piece.text
    return [text.strip() or "Hello" for text in texts]


def _length(model: Model, shown: str) -> int:
    return len(model.tokenizer.encode(shown, add_special_tokens=False)) + _MOST_ASKED + 1
