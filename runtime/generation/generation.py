"""Text out of tokens: pieces as they become final, then timing and why it ended.

Three layers, each adds one thing: `decode` makes tokens, `stream` makes text of them, `generate` joins it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Cancelled
from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, Step, decode
from skipstone.runtime.decoding.verify import rule_named
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.generation.opening import Opening
from skipstone.runtime.generation.options import GenerationOptions
from skipstone.runtime.generation.stats import Clock, Stats
from skipstone.runtime.methods import ApproximateContext, MethodChoice, dial_setting
from skipstone.runtime.sampling import Sampler, logprob_of, top_logprobs
from skipstone.runtime.text import FinishReason, StopDecision, TextBuilder

__all__ = ["SAME_IN_FLOAT32", "Generation", "Piece", "TokenLogprobs", "cancelled_piece", "same_text", "stream"]

SAME_IN_FLOAT32 = "plain decoding's, up to the last bits of float32"
"""What `Stats.same_text` says of a text without quantized weights, however its rows stood."""
SAME_BITS = "plain decoding's, bit by bit"
Spell: TypeAlias = Callable[[int], bytes]
"""What a token spells, in bytes that need not be whole characters."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token with its natural-log probability, and the likeliest tokens at its position, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    def to_json(self, spell: Spell | None) -> dict[str, Any]:
        """Return plain data. With what tokens `spell`, each has its `text`, where � stands for a part of a character,
        and its `bytes`, whole numbers."""
        top = [_spelled(token_id, logprob, spell) for token_id, logprob in self.top]
        return {**_spelled(self.token_id, self.logprob, spell), "top": top}


def _spelled(token_id: int, logprob: float, spell: Spell | None) -> dict[str, Any]:
    told: dict[str, Any] = {"token_id": token_id, "logprob": logprob}
    if spell is None:
        return told
    spelled = spell(token_id)
    return told | {"text": spelled.decode("utf-8", errors="replace"), "bytes": [*spelled]}


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

    def to_json(self, spell: Spell | None = None) -> dict[str, Any]:
        """Return plain data: text and tokens, log probabilities as of `Generation.to_json`, and at the end the rest."""
        data: dict[str, Any] = {"text": self.text, "token_ids": [*self.token_ids]}
        if self.logprobs:
            data["logprobs"] = [entry.to_json(spell) for entry in self.logprobs]
        if self.stats is None:
            return data
        return data | {"finish_reason": self.finish_reason, "stats": self.stats.to_json()}


def cancelled_piece(prompt_tokens: int, *, text: str = "", stats: Stats | None = None) -> Piece:
    """Return the last piece of a text that is cancelled; without `stats` nothing was done for it."""
    stats = stats or Stats.of_nothing(prompt_tokens)
    return Piece(text=text, token_ids=(), finish_reason="cancelled", stats=stats)


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

    def to_json(self, spell: Spell | None = None) -> dict[str, Any]:
        """Return plain data; `logprobs` only where they were asked for, depths only of an approximate text, a seed only
        where chance was in it. `spell` gives the bytes of a token, as `LanguageModel.spell` does."""
        data = asdict(self) | {"stats": self.stats.to_json()}
        if self.logprobs:
            return data | {"logprobs": [entry.to_json(spell) for entry in self.logprobs]}
        del data["logprobs"]
        return data


def stream(
    model: Model, sequence: Sequence, options: GenerationOptions, *, drafter: Drafter | None = None
) -> Iterator[Piece]:
    """Yield pieces of the text that follows `sequence`, whose tokens are all given.

    A `drafter` given replaces that of the options.
    Where the options want chance and give no seed, one is drawn, and the stats say it.
    Closing the iterator early is fine: the sequence keeps what was emitted. Raises: CacheFull, ConfigError before any
    work.
    """
    if options.exact and not sequence.exact:
        raise ConfigError(
            "the options ask for exact, the sequence is not; make it with new_sequence(exact=True), "
            "a conversation with chat(exact=True)"
        )
    sequence.require_room(options.max_new_tokens)
    options.sampling.require_vocabulary(model.manifest.dimensions.vocab_size)
    options = options.seeded()
    opening = Opening.of(model, sequence, options)
    num_prompt_tokens = opening.num_prompt_tokens
    sampler = Sampler.from_options(
        options.sampling, stop_ids=model.manifest.stop_ids, num_prompt_tokens=num_prompt_tokens
    )
    method = MethodChoice.parse(options.decode, rule=options.verify)
    if drafter is None and options.approximate is not None:
        return _stream_approximate(model, sequence, options, sampler, opening)
    if drafter is None:
        drafter = method.open(model, sequence, sampler)
    steps = decode(
        sequence,
        drafter=drafter,
        accept=rule_named(options.verify, sampler, sequence.token_ids),
        max_new_tokens=opening.num_left,
        stop_ids=options.stop_ids(model),
    )
    return _pieces(sequence, options, opening, steps, same_text=same_text(model, sequence, method, options))


def same_text(model: Model, sequence: Sequence, method: MethodChoice, options: GenerationOptions) -> str:
    """Return how near a text is to that of plain decoding, and why."""
    if method.rule != "match":
        return f"another of the same law, as {method.rule} verifies"
    if method.needs_trees:
        return "plain decoding's up to near ties, as drafts branch"
    if model.manifest.precision == "fp32":
        return SAME_IN_FLOAT32
    rounding = model.rounding
    if not sequence.exact:
        return "plain decoding's up to near ties"
    most, until = len(sequence.token_ids) + options.max_new_tokens, sequence.drafts_until
    if not any(named.verifies for named in method.methods):
        return SAME_BITS
    if not until:
        return f"{SAME_BITS}, without drafts: rows round by those beside them here (--no-exact drafts, up to near ties)"
    if until < most:
        return (
            f"{SAME_BITS}; drafts end behind {until:,} tokens "
            "(--no-exact goes on, up to near ties; a bundle with an int8 cache drafts on)"
        )
    price = rounding.price_at(most)
    return SAME_BITS + (f", for {price:.1%} of a plain step" if price >= 0.0005 else "")


def _stream_approximate(
    model: Model, sequence: Sequence, options: GenerationOptions, sampler: Sampler, opening: Opening
) -> Iterator[Piece]:
    """Yield the pieces of an approximate text."""
    method, file = options.approximate, None if options.calibration is None else Path(options.calibration)
    assert method is not None, "the caller has looked"
    setting, promise = dial_setting(model, method, options.min_agreement, options.dial, calibration=file)
    text = opening.text_builder()
    for step in opening.steps:
        text.take(step.token_ids, step.logits)
    opened = method.open(
        ApproximateContext(
            model=model,
            sequence=sequence,
            sampler=sampler,
            setting=setting,
            max_new_tokens=opening.num_left,
            stop_ids=options.stop_ids(model),
            calibration=file,
            text=text,
        )
    )
    said = "; ".join(filter(None, (promise or opened.promise, opened.note)))
    return _pieces(sequence, options, opening, opened.steps, approximate=said)


def _pieces(
    sequence: Sequence,
    options: GenerationOptions,
    opening: Opening,
    steps: Iterator[Step],
    *,
    approximate: str | None = None,
    same_text: str | None = None,
) -> Iterator[Piece]:
    """Yield what each step adds to the text, until it ends or is cancelled."""
    promises = (approximate, StopDecision(options.stop_below).promise)
    said = "; ".join(filter(None, promises)) or None
    start, calls = time.perf_counter() - opening.seconds, sequence.sessions.crew.calls
    clock = Clock(opening.num_fed, said, options.sampling.seed, same_text, start, calls)
    builder, prompt_tokens = opening.text_builder(), opening.num_prompt_tokens
    try:
        yield from _until_end(sequence, options, chain(opening.steps, steps), builder, clock, prompt_tokens)
    except Cancelled:
        if not clock.has_begun:
            clock.num_fed = max(0, sequence.num_cached - (prompt_tokens - opening.num_fed))
        yield cancelled_piece(prompt_tokens, text=builder.cancel(), stats=clock.stats(prompt_tokens))


def _until_end(
    sequence: Sequence,
    options: GenerationOptions,
    steps: Iterator[Step],
    builder: TextBuilder,
    clock: Clock,
    prompt_tokens: int,
) -> Iterator[Piece]:
    for step in steps:
        text, num_taken = builder.take(step.token_ids, step.logits)
        if num_taken < len(step.token_ids):  # plain decoding would not have made what stands behind the end
            sequence.rollback(len(sequence.token_ids) - len(step.token_ids) + num_taken)
        taken = step.token_ids[:num_taken]
        num_guessed = min(step.num_accepted, num_taken)
        parts = (step.draft_s, step.model_s, step.accept_s)
        clock.step(num_taken, parts=parts, waited_s=step.waited_s, num_calls=step.num_calls)
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
