"""Text out of tokens: pieces as they become final, then timing and why it ended.

Three layers, each adds one thing: `decode` makes tokens, `stream` makes text of them, `generate` joins it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decode import decode
from skipstone.runtime.drafters import Drafter, PlainDrafter
from skipstone.runtime.model import Model
from skipstone.runtime.sampling import Sampler, SamplingOptions, logprob_of, top_logprobs
from skipstone.runtime.sequence import Sequence
from skipstone.runtime.verification import match
from skipstone.runtime.stop import StopStrings
from skipstone.runtime.text_stream import TextStream

__all__ = [
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "Piece",
    "Stats",
    "TextBuilder",
    "TokenLogprobs",
    "stream",
]

FinishReason = Literal["stop", "length"]
"""`stop`: a stop token or stop string; `length`: the limit of new tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """What to make of a prompt. `logprobs`: how many likely tokens to report at each position; None is off."""

    max_new_tokens: int = 128
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.sampling.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens {self.sampling.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}"
            )
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs must be at least 0, got {self.logprobs}")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token with its natural-log probability, and the likeliest tokens at its position, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a generation cost. Prefill ends, and decoding starts, with the first token."""

    prompt_tokens: int
    new_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    model_calls: int
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The tokens of one model call and the text that became final with them, which may be empty.

    The last piece, and only it, says why the text ended and what it cost.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stats: Stats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text. `token_ids` are all that were made, the stop token with them."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[TokenLogprobs, ...] = ()

    @classmethod
    def join(cls, pieces: SequenceOf[Piece]) -> Generation:
        """Return what all pieces of one stream make together."""
        last = pieces[-1]
        assert last.finish_reason is not None and last.stats is not None, "the last piece says why and at what cost"
        return cls(
            text="".join(piece.text for piece in pieces),
            token_ids=tuple(token_id for piece in pieces for token_id in piece.token_ids),
            prompt_tokens=last.stats.prompt_tokens,
            finish_reason=last.finish_reason,
            stats=last.stats,
            logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `logprobs` only where they were asked for."""
        data = asdict(self)
        return data if self.logprobs else {key: value for key, value in data.items() if key != "logprobs"}


class TextBuilder:
    """The text of one generation so far: whole characters, cut at stop strings, and why it ended if it has."""

    def __init__(self, model: Model, options: GenerationOptions, *, prompt: SequenceOf[int]) -> None:
        after = prompt[-1] if prompt else None
        self._text, self._stop = TextStream(model.tokenizer, after=after), StopStrings(options.stop)
        self._stop_ids = model.manifest.stop_ids
        self._left = options.max_new_tokens
        self.finish_reason: FinishReason | None = None

    def push(self, token_ids: SequenceOf[int]) -> tuple[str, int]:
        """Return the text that became final with these tokens, and how many of them belong to the generation.

        Sets `finish_reason` when it has ended; tokens behind a stop string do not belong to it.
        """
        shown = []
        for num_taken, token_id in enumerate(token_ids, start=1):
            self._left -= 1
            stopped = token_id in self._stop_ids
            text, hit = self._stop.push("" if stopped else self._text.push(token_id))
            shown.append(text)
            if hit:
                self.finish_reason = "stop"
                return "".join(shown), num_taken
            if stopped or self._left == 0:
                self.finish_reason = "stop" if stopped else "length"
                return "".join([*shown, self._end()]), num_taken
        return "".join(shown), len(token_ids)

    def _end(self) -> str:
        text = self._stop.push(self._text.flush())[0] + self._stop.flush()
        if self._stop.hit:
            self.finish_reason = "stop"
        return text


class Clock:
    """Times one generation: from its making to the first token, and from there on."""

    def __init__(self, num_fed: int) -> None:
        self._num_fed, self._start = num_fed, time.perf_counter()
        self._first: float | None = None
        self._calls = self._tokens = self._first_tokens = 0

    def step(self, num_tokens: int) -> None:
        if self._first is None:
            self._first, self._first_tokens = time.perf_counter(), num_tokens
        self._calls += 1
        self._tokens += num_tokens

    def stats(self, prompt_tokens: int) -> Stats:
        now, first = time.perf_counter(), self._first or time.perf_counter()
        num_decoded = self._tokens - self._first_tokens
        return Stats(
            prompt_tokens=prompt_tokens,
            new_tokens=self._tokens,
            prefill_tokens_per_s=self._num_fed / (first - self._start),
            decode_tokens_per_s=num_decoded / (now - first) if num_decoded else 0.0,
            ttft_s=first - self._start,
            model_calls=self._calls,
            peak_memory_bytes=peak_memory_bytes(),
        )


def stream(
    model: Model, sequence: Sequence, options: GenerationOptions, *, drafter: Drafter | None = None
) -> Iterator[Piece]:
    """Yield pieces of the text that follows `sequence`, whose tokens are all given.

    Closing the iterator early is fine: the sequence keeps what was emitted. Raises: CacheFull before any work.
    """
    sequence.require_room(options.max_new_tokens)
    prompt_tokens = len(sequence.token_ids)
    sampler = Sampler.from_options(options.sampling, stop_ids=model.manifest.stop_ids, num_prompt_tokens=prompt_tokens)
    clock, builder = Clock(prompt_tokens - sequence.num_cached), TextBuilder(model, options, prompt=sequence.token_ids)
    steps = decode(
        sequence,
        drafter=drafter or PlainDrafter(),
        accept=match(sampler, sequence.token_ids),
        max_new_tokens=options.max_new_tokens,
        stop_ids=model.manifest.stop_ids,
    )
    for step in steps:
        text, num_taken = builder.push(step.token_ids)
        if num_taken < len(step.token_ids):  # plain decoding would not have made what stands behind a stop string
            sequence.rollback(len(sequence.token_ids) - len(step.token_ids) + num_taken)
        taken = step.token_ids[:num_taken]
        clock.step(num_taken)
        ended = builder.finish_reason is not None
        yield Piece(
            text=text,
            token_ids=tuple(taken),
            logprobs=token_logprobs(taken, step.logits, options.logprobs),
            finish_reason=builder.finish_reason,
            stats=clock.stats(prompt_tokens) if ended else None,
        )
        if ended:
            return


def token_logprobs(
    token_ids: SequenceOf[int], logits: NDArray[np.float32], num_top: int | None
) -> tuple[TokenLogprobs, ...]:
    """Return how likely each token is under its row of logits [N, V], before any sampler; () when not asked for."""
    if num_top is None:
        return ()
    return tuple(
        TokenLogprobs(token_id, logprob_of(row, token_id), top_logprobs(row, num_top))
        for token_id, row in zip(token_ids, logits, strict=False)
    )


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
