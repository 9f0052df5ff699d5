"""Several texts that follow one prompt, a token of each for a model call: they end in the order of their lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Cancelled
from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model, Sequence, open_branches
from skipstone.runtime.generation.generation import SAME_IN_FLOAT32, Piece, cancelled_piece, same_text, token_logprobs
from skipstone.runtime.generation.options import GenerationOptions
from skipstone.runtime.generation.stats import Clock
from skipstone.runtime.methods import MethodChoice
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.text import StopDecision, TextBuilder

__all__ = ["require_side_by_side", "stream_side_by_side", "with_seed"]


def with_seed(options: GenerationOptions, number: int) -> GenerationOptions:
    """Return the options of the text `number` of several, whose seeds follow each other."""
    seed = ((options.sampling.seed or 0) + number) % 2**64
    return replace(options, sampling=replace(options.sampling, seed=seed))


def require_side_by_side(options: GenerationOptions) -> None:
    """Raise ConfigError for options that only a text alone has."""
    if not MethodChoice.parse(options.decode).takes_batches or options.verify != "match":
        raise ConfigError(
            f"texts side by side are decoded without drafts, got decode {options.decode} and verify {options.verify}; "
            "leave both out"
        )
    if options.complete_words:
        raise ConfigError("texts side by side follow one prompt, and complete_words gives each its own; leave it out")


@dataclass(slots=True)
class _Text:
    """One of the texts: its noise, its end, its time, and its tokens behind those of the prompt."""

    sampler: Sampler
    builder: TextBuilder
    clock: Clock
    token_ids: list[int]
    num_prompt_tokens: int

    @classmethod
    def of(cls, model: Model, sequence: Sequence, options: GenerationOptions, said: str) -> _Text:
        prompt = list(sequence.token_ids)
        return cls(
            sampler=Sampler.from_options(
                options.sampling, stop_ids=model.manifest.stop_ids, num_prompt_tokens=len(prompt)
            ),
            builder=options.text_builder(model, prompt=prompt),
            clock=Clock(sequence.num_waiting, StopDecision(options.stop_below).promise, options.sampling.seed, said),
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
        )

    @property
    def is_open(self) -> bool:
        return self.builder.finish_reason is None

    def emit(self, logits: NDArray[np.float32], options: GenerationOptions) -> Piece:
        """Choose the next token from `logits` [1, V] and return its piece."""
        token_id = self.sampler.choose(logits[0], self.token_ids)
        self.token_ids.append(token_id)
        text, num_taken = self.builder.take([token_id], logits)
        self.clock.step(num_taken)
        taken = [token_id][:num_taken]
        return Piece(
            text=text,
            token_ids=tuple(taken),
            logprobs=token_logprobs(taken, logits, options.logprobs),
            finish_reason=self.builder.finish_reason,
            stats=None if self.is_open else self.clock.stats(self.num_prompt_tokens),
        )

    def cancelled(self) -> Piece:
        """End the text, and return its last piece."""
        text, stats = self.builder.cancel(), self.clock.stats(self.num_prompt_tokens)
        return cancelled_piece(self.num_prompt_tokens, text=text, stats=stats)


def stream_side_by_side(
    model: Model, sequence: Sequence, options: GenerationOptions, *, count: int
) -> Iterator[tuple[int, Piece]]:
    """Yield (number of the text, piece) until all `count` texts have ended or are cancelled.

    They follow `sequence`, which stays as it is, and their seeds follow each other from that of the options on. Raises:
    ConfigError for options that only a text alone has; CacheFull.
    """
    require_side_by_side(options)
    sequence.begin()
    options, said = options.seeded(), _same_text(model, sequence, options)
    texts = [_Text.of(model, sequence, with_seed(options, number), said) for number in range(count)]
    try:
        yield from _until_all_end(sequence, options, texts)
    except Cancelled:
        for number, text in enumerate(texts):
            if text.is_open:
                yield number, text.cancelled()


def _until_all_end(sequence: Sequence, options: GenerationOptions, texts: list[_Text]) -> Iterator[tuple[int, Piece]]:
    count = len(texts)
    numbers = list(range(count))
    with open_branches(sequence, most=count, steps=options.max_new_tokens - 1, alone=sequence.exact) as branches:
        branches.reorder([0] * count)
        logits = np.repeat(branches.logits, count, axis=0)
        while True:
            for row, number in enumerate(numbers):
                yield number, texts[number].emit(logits[row : row + 1], options)
            places = [place for place, number in enumerate(numbers) if texts[number].is_open]
            if not places:
                return
            if len(places) < len(numbers):
                branches.reorder(places)
            numbers = [numbers[place] for place in places]
            logits = branches.step([texts[number].token_ids[-1] for number in numbers])


def _same_text(model: Model, sequence: Sequence, options: GenerationOptions) -> str:
    """Return how near the texts are to those of plain decoding."""
    if sequence.exact:
        return same_text(model, sequence, MethodChoice.parse(options.decode), options)
    if model.manifest.precision == "fp32":
        return SAME_IN_FLOAT32
    return "plain decoding's up to near ties, as texts are decoded side by side"
