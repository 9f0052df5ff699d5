"""Several prompts at once: one model call makes a token for each of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Cancelled
from skipstone.errors import ConfigError
from skipstone.runtime.engine import (
    Call,
    Draft,
    KVCache,
    Model,
    Sequence,
    current_watch,
    groups_of,
    open_call,
    pending_feed,
    read_together,
)
from skipstone.runtime.generation.generation import SAME_IN_FLOAT32, Piece, cancelled_piece, token_logprobs
from skipstone.runtime.generation.opening import Opening
from skipstone.runtime.generation.options import GenerationOptions
from skipstone.runtime.generation.stats import Clock
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.text import StopDecision, TextBuilder

__all__ = ["stream_batch"]


@dataclass(slots=True)
class _Row:
    """One prompt of the batch: its sequence lives in one row of the shared cache."""

    sequence: Sequence
    sampler: Sampler
    builder: TextBuilder
    clock: Clock
    opening: Opening

    @property
    def is_open(self) -> bool:
        return self.builder.finish_reason is None

    def emit(self, logits: NDArray[np.float32], options: GenerationOptions) -> Piece:
        """Choose the next token from `logits` [1, V] and return its piece."""
        token_id = self.sampler.choose(logits[0], self.sequence.token_ids)
        self.sequence.commit([token_id])
        return self.show(token_id, logits, options)

    def show(self, token_id: int, logits: NDArray[np.float32], options: GenerationOptions) -> Piece:
        """Return the piece of a token that `logits` [1, V] gave and that ends the sequence."""
        text, num_taken = self.builder.take([token_id], logits)
        if not num_taken:
            self.sequence.rollback(len(self.sequence.token_ids) - 1)
        self.clock.step(num_taken)
        taken, ended = [token_id][:num_taken], not self.is_open
        return Piece(
            text=text,
            token_ids=tuple(taken),
            logprobs=token_logprobs(taken, logits, options.logprobs),
            finish_reason=self.builder.finish_reason,
            stats=self.clock.stats(self.opening.num_prompt_tokens) if ended else None,
        )

    def cancelled(self) -> Piece:
        """End the text, and return its last piece."""
        num_prompt_tokens = self.opening.num_prompt_tokens
        if not self.clock.has_begun:
            self.clock.num_fed = self.sequence.num_cached
        text, stats = self.builder.cancel(), self.clock.stats(num_prompt_tokens)
        return cancelled_piece(num_prompt_tokens, text=text, stats=stats)


def stream_batch(
    model: Model, prompts: SequenceOf[SequenceOf[int]], options: GenerationOptions, *, context_length: int | None = None
) -> Iterator[tuple[int, Piece]]:
    """Yield (index of the prompt, piece) until every prompt's text has ended or is cancelled.

    Prompts are read into their rows of one cache, short ones together, then decoded together; lengths may differ. Each
    row is a sequence of its own in every other way: its own noise, limits and stop. Raises: CacheFull, ConfigError
    before any work.
    """
    if options.exact:
        raise ConfigError("a batch cannot be exact, as its rows go through other kernels; decode one after the other")
    if model.manifest.is_traced:
        raise ConfigError("a graph of optimum takes one text at a time, no batch; decode one after the other")
    options.sampling.require_vocabulary(model.manifest.dimensions.vocab_size)
    rows: list[_Row] = []
    try:
        yield from _stream_rows(model, prompts, options.seeded(), rows, context_length=context_length)
    except Cancelled:
        for index, row in enumerate(rows):
            if row.is_open:
                yield index, row.cancelled()
        for index in range(len(rows), len(prompts)):
            yield index, cancelled_piece(len(prompts[index]))


def _stream_rows(
    model: Model,
    prompts: SequenceOf[SequenceOf[int]],
    options: GenerationOptions,
    rows: list[_Row],
    *,
    context_length: int | None,
) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces; `rows` gets one for each prompt, in order."""
    if context_length is None:
        longest = max(map(len, prompts)) + options.max_new_tokens
        context_length = model.room(num_rows=len(prompts), num_tokens=longest).num_tokens
    cache = model.new_cache(context_length=context_length, batch=len(prompts))
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    place_of = {index: place for place, index in enumerate(by_length)}
    current_watch().expect(sum(map(len, prompts)))
    for index, prompt in enumerate(prompts):
        rows.append(_open_row(model, model.sequence_in(cache.row(place_of[index])), prompt, options))
    sequences = [rows[index].sequence for index in by_length]
    promise, same_text = StopDecision(options.stop_below).promise, _same_text(model)
    reader = _Reader(model, cache, sequences)
    for index, row in enumerate(rows):
        first, seconds = reader.read(place_of[index])
        start = time.perf_counter() - row.opening.seconds - seconds
        row.clock = Clock(row.opening.num_fed, promise, options.sampling.seed, same_text, start)
        for step in row.opening.steps:
            yield index, row.show(step.token_ids[0], step.logits, options)
        if row.is_open:
            yield index, row.emit(row.sequence.extend(Draft.empty()) if first is None else first, options)
    call: Call | None = None
    while waiting := [index for index, row in enumerate(rows) if row.is_open]:
        for index in (index for index in waiting if rows[index].sequence.is_stale):
            yield index, rows[index].emit(rows[index].sequence.extend(Draft.empty()), options)
        waiting = [index for index in waiting if rows[index].is_open]
        # A row that has ended is fed its last token again, at the same place, and its logits are ignored.
        feed = pending_feed(sequences)
        call = call or open_call(model.sessions, cache, feed)
        logits = call.run(feed)
        for index in waiting:
            rows[index].sequence.mark_extended()
            yield index, rows[index].emit(logits[place_of[index]][None], options)


class _Reader:
    """Reads short prompts of like lengths together, when the first of them has its turn, and keeps their logits."""

    def __init__(self, model: Model, cache: KVCache, sequences: SequenceOf[Sequence]) -> None:
        """`sequences` have the rows of `cache`, in order, and rising lengths."""
        self._cache, self._sequences = cache, sequences
        groups = [group for group in groups_of(sequences) if len(group) > 1]
        is_free = bool(groups) and model.rounding.is_free
        self._group_of = {place: group for group in groups if is_free for place in group}
        self._read: dict[int, tuple[NDArray[np.float32], float]] = {}

    def read(self, place: int) -> tuple[NDArray[np.float32] | None, float]:
        """Return the logits [1, V] behind a prompt and its share of the seconds; None where it is to be read alone."""
        group = self._group_of.get(place)
        if group is None:
            return None, 0.0
        if place not in self._read:
            start, at = time.perf_counter(), slice(group.start, group.stop)
            logits = read_together(self._sequences[at], self._cache.rows(at))
            current_watch().read(sum(len(sequence.token_ids) for sequence in self._sequences[at]))
            seconds = (time.perf_counter() - start) / len(group)
            self._read |= {place: (row[None], seconds) for place, row in zip(group, logits, strict=True)}
        return self._read.pop(place)


def _same_text(model: Model) -> str:
    """Return how near the texts are to those of plain decoding."""
    if model.manifest.precision == "fp32":
        return SAME_IN_FLOAT32
    return "plain decoding's up to near ties, as texts of a batch are decoded together"


def _open_row(model: Model, sequence: Sequence, prompt: SequenceOf[int], options: GenerationOptions) -> _Row:
    sequence.append(prompt)
    sequence.require_room(options.max_new_tokens)
    opening = Opening.of(model, sequence, options)
    sampler = Sampler.from_options(
        options.sampling, stop_ids=model.manifest.stop_ids, num_prompt_tokens=opening.num_prompt_tokens
    )
    return _Row(sequence, sampler, opening.text_builder(), Clock(opening.num_fed), opening)
