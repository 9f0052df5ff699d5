"""Text out of tokens: pieces as they become final, then timing and why it ended.

Three layers, each adds one thing: `decode` makes tokens, `stream` makes text of them, `generate` joins it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.approximate import APPROXIMATE, ApproximateContext, ApproximateMethod
from skipstone.runtime.decode import Step, decode
from skipstone.runtime.drafters import Drafter
from skipstone.runtime.model import Model
from skipstone.runtime.number import require_number
from skipstone.runtime.planning.method import Method
from skipstone.runtime.sampling import Sampler, SamplingOptions, logprob_of, top_logprobs
from skipstone.runtime.sequence import Sequence
from skipstone.runtime.stats import Clock, Stats
from skipstone.runtime.stop import StopStrings
from skipstone.runtime.stop_decision import StopDecision
from skipstone.runtime.text_stream import TextStream
from skipstone.runtime.verification import rule_named

__all__ = [
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "Piece",
    "TextBuilder",
    "TokenLogprobs",
    "stream",
]

FinishReason = Literal["stop", "length", "unsure"]
"""`stop`: a stop token or stop string; `length`: the limit of new tokens; `unsure`: the chance set by `stop_below`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """What to make of a prompt, and how. `logprobs`: how many likely tokens to report at each position; None is off.

    `decode` is `plain`, `auto`, drafters joined by commas, or an approximate method. `verify` is the rule for drafts:
    `match` gives the text of plain decoding; `rejection` and `k-seq` give another text of the same law. `exact` gives
    the text of exact plain decoding bit by bit, its logits too: kernels then see rows in pairs.

    An approximate method, such as `exit`, wants `min_agreement`, the share of tokens, 0.8 to 1, that must be the full
    model's choice, or `dial`, a setting in the method's own unit. 1 and the dial's plain end are plain decoding.
    `calibration` is a file for it in place of the one that `skipstone tune` kept; of dials only `exit`'s reads one.

    `stop_below` ends a text, with every method, before the first token at which the model's highest probabilities,
    before any sampler, multiply to less: 0.2 keeps what has a chance of one in five to be the model's greedy choice as
    a whole. It may be the first token, which leaves an empty text. Approximate; 0 is off.
    """

    max_new_tokens: int = 128
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    decode: str = "auto"
    verify: str = "match"
    exact: bool = False
    min_agreement: float | None = None
    dial: float | None = None
    calibration: str | Path | None = None
    stop_below: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_agreement", "dial", "stop_below"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name))
        StopDecision(self.stop_below)
        Method.parse(self.decode, rule=self.verify)
        if self.approximate is not None:
            self.approximate.require_setting(self.min_agreement, self.dial, self.calibration)
            if self.verify != "match":
                raise ConfigError(
                    f"{self.decode} decides itself which guesses stand, {self.verify} cannot; leave verify at match"
                )
        elif (self.min_agreement, self.dial, self.calibration) not in ((None, None, None), (None, 0.0, None)):
            raise ConfigError(
                f"min_agreement, dial and calibration are for approximate decoding only, got decode {self.decode}; "
                f"approximate are {', '.join(APPROXIMATE)}"
            )
        if self.exact and self.verify != "match":
            raise ConfigError(f"exact gives the bits of plain decoding, which {self.verify} does not; use match")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.sampling.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens {self.sampling.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}"
            )
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs must be at least 0, got {self.logprobs}")

    @property
    def approximate(self) -> ApproximateMethod | None:
        """The approximate method that is asked for; None where the text is to be plain decoding's."""
        method = APPROXIMATE.get(self.decode.strip())
        if method is not None and method.drafts and self.min_agreement is None and self.dial in (None, method.plain):
            return None
        return method


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token with its natural-log probability, and the likeliest tokens at its position, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The tokens of one model call and the text that became final with them, which may be empty.

    The first `num_guessed` tokens were guessed by `drafter`, the others are the model's own. `depth` is the number of
    layers that made them; None is all. The last piece, and only it, says why the text ended and what it cost.
    """

    text: str
    token_ids: tuple[int, ...]
    drafter: str = "plain"
    num_guessed: int = 0
    depth: int | None = None
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
        """Return plain data; `logprobs` only where they were asked for, depths only of an approximate text."""
        data = asdict(self)
        if not self.logprobs:
            del data["logprobs"]
        if self.stats.approximate is None:
            del data["stats"]["approximate"], data["stats"]["depths"]
        return data


class TextBuilder:
    """The text of one generation so far: whole characters, cut at stop strings, and why it ended if it has."""

    def __init__(self, model: Model, options: GenerationOptions, *, prompt: SequenceOf[int]) -> None:
        after = prompt[-1] if prompt else None
        self._text, self._stop = TextStream(model.tokenizer, after=after), StopStrings(options.stop)
        self._stop_ids = model.manifest.stop_ids
        self._left = options.max_new_tokens
        self._decision = StopDecision(options.stop_below)
        self.finish_reason: FinishReason | None = None

    def take(self, token_ids: SequenceOf[int], logits: NDArray[np.float32]) -> tuple[str, int]:
        """Push the tokens that the model is sure enough of, by the logits [N, V] of each; end where it is not."""
        num_sure = self._decision.push(logits[: len(token_ids)])
        text, num_taken = self.push(token_ids[:num_sure])
        if self.finish_reason is None and num_sure < len(token_ids):
            self.finish_reason = "unsure"
            text += self._end()
        return text, num_taken

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


def stream(
    model: Model, sequence: Sequence, options: GenerationOptions, *, drafter: Drafter | None = None
) -> Iterator[Piece]:
    """Yield pieces of the text that follows `sequence`, whose tokens are all given.

    A `drafter` given replaces that of the options.
    Closing the iterator early is fine: the sequence keeps what was emitted. Raises: CacheFull, ConfigError before any
    work.
    """
    if options.exact and not sequence.exact:
        raise ConfigError(
            "the options ask for exact, the sequence is not; make it with new_sequence(exact=True), "
            "a conversation with chat(exact=True)"
        )
    sequence.require_room(options.max_new_tokens)
    prompt_tokens = len(sequence.token_ids)
    sampler = Sampler.from_options(options.sampling, stop_ids=model.manifest.stop_ids, num_prompt_tokens=prompt_tokens)
    method = Method.parse(options.decode, rule=options.verify)
    if drafter is None and options.approximate is not None:
        return _stream_approximate(model, sequence, options, sampler)
    if drafter is None:
        drafter = method.open(model, sequence, sampler)
    steps = decode(
        sequence,
        drafter=drafter,
        accept=rule_named(options.verify, sampler, sequence.token_ids),
        max_new_tokens=options.max_new_tokens,
        stop_ids=model.manifest.stop_ids,
    )
    return _pieces(model, sequence, options, steps)


def _stream_approximate(
    model: Model, sequence: Sequence, options: GenerationOptions, sampler: Sampler
) -> Iterator[Piece]:
    """Yield the pieces of an approximate text."""
    method, file = options.approximate, None if options.calibration is None else Path(options.calibration)
    assert method is not None, "the caller has looked"
    setting, promise = method.setting(model, options.min_agreement, options.dial, calibration=file)
    opened = method.open(
        ApproximateContext(
            model=model,
            sequence=sequence,
            sampler=sampler,
            setting=setting,
            max_new_tokens=options.max_new_tokens,
            stop_ids=model.manifest.stop_ids,
            calibration=file,
            text=TextBuilder(model, options, prompt=sequence.token_ids),
        )
    )
    said = "; ".join(filter(None, (promise or opened.promise, opened.note)))
    return _pieces(model, sequence, options, opened.steps, approximate=said)


def _pieces(
    model: Model,
    sequence: Sequence,
    options: GenerationOptions,
    steps: Iterator[Step],
    *,
    approximate: str | None = None,
) -> Iterator[Piece]:
    """Yield what each step adds to the text, until it ends."""
    prompt_tokens = len(sequence.token_ids)
    promises = (approximate, StopDecision(options.stop_below).promise)
    clock = Clock(prompt_tokens - sequence.num_cached, "; ".join(filter(None, promises)) or None)
    builder = TextBuilder(model, options, prompt=sequence.token_ids)
    for step in steps:
        text, num_taken = builder.take(step.token_ids, step.logits)
        if num_taken < len(step.token_ids):  # plain decoding would not have made what stands behind the end
            sequence.rollback(len(sequence.token_ids) - len(step.token_ids) + num_taken)
        taken = step.token_ids[:num_taken]
        num_guessed = min(step.num_accepted, num_taken)
        clock.step(num_taken, parts=(step.draft_s, step.model_s, step.accept_s), waited_s=step.waited_s)
        if step.depth is not None and num_taken:
            clock.depth(step.depth, num_taken)
        if step.num_drafted:
            clock.draft(step.drafter, drafted=step.num_drafted, accepted=num_guessed)
        ended = builder.finish_reason is not None
        yield Piece(
            text=text,
            token_ids=tuple(taken),
            drafter=step.drafter,
            num_guessed=num_guessed,
            depth=step.depth,
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
