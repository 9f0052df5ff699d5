"""The cascade: the small model writes the whole answer, and where it is not sure enough the large one writes another.

Source: language model cascades with token-level uncertainty (Gupta et al., 2024), their Chow-quantile.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import PlainDrafter, Step, decode, step_of_one
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Sequence
from skipstone.runtime.methods.method import DRAFT_MODEL, ApproximateContext, Dial, Method, Opened
from skipstone.runtime.methods.small_model.follower import SmallModel, open_small_model
from skipstone.runtime.sampling import Sampler, logprob_of

if TYPE_CHECKING:
    from skipstone.runtime.text import TextBuilder

__all__ = ["METHOD", "Deferral", "chow_quantile", "decode_cascade", "open_cascade"]


def chow_quantile(logprobs: SequenceOf[float], level: float) -> float:
    """Return the quantile of log-probabilities at a level, 0..1, interpolated: at 0 that of the least likely token."""
    return float(np.quantile(np.asarray(logprobs, np.float64), level))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """Says which answers stand: those of which the quantile at `level` is a probability above `dial`, 0..1.

    At 1 none stands, at 0 all do.
    """

    dial: float
    level: float = 0.1

    def stands(self, logprobs: SequenceOf[float]) -> bool:
        """Return whether an answer stands whose tokens have these log-probabilities."""
        return chow_quantile(logprobs, self.level) > (math.log(self.dial) if self.dial else -math.inf)

    def may_stand(self, logprobs: SequenceOf[float], most: int) -> bool:
        """Return whether an answer of at most `most` tokens that begins so could still stand.

        The quantile is largest when all tokens to come are certain, and as many as can be.
        """
        return self.stands([*logprobs, *[0.0] * (most - len(logprobs))])


def open_cascade(context: ApproximateContext) -> Opened:
    """Open a text that one of two models writes alone; the dial is the probability that the small one must exceed.

    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    steps = decode_cascade(
        context.sequence,
        small=open_small_model(context, "cascade"),
        num_layers=context.model.manifest.dimensions.num_layers,
        deferral=Deferral(dial=context.setting),
        sampler=context.sampler,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
        text=context.text,
    )
    if context.setting == 1:
        return Opened(steps=steps, promise="all tokens as the full model's")
    promise = f"cascade above a probability of {context.setting:g}: agreement not calibrated"
    return Opened(steps=steps, promise=promise, note="the text comes when it is decided who writes it")


def decode_cascade(
    sequence: Sequence,
    *,
    small: SmallModel,
    num_layers: int,
    deferral: Deferral,
    sampler: Sampler,
    max_new_tokens: int,
    stop_ids: Collection[int],
    text: TextBuilder | None = None,
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; its depth is that of the model that made it.

    Nothing is yielded before it is decided who writes the text; `num_layers` is the depth of the large model. What the
    small one wrote waits in the sequence, also after the last step. Where `text` ends, the small one ends too, and
    what stands behind is not judged.
    Raises: CacheFull when prompt and answer do not fit.
    Cost: the small model's text, to the point from which it cannot stand; until it is yielded, V logits a token.
    """
    sequence.require_room(max_new_tokens)
    answer = _written(sequence.token_ids, small, deferral, sampler, max_new_tokens, stop_ids, text)
    for step in answer:
        sequence.append(step.token_ids)
        yield step
    if not answer:
        rule = match(sampler, sequence.token_ids)
        for step in decode(
            sequence, drafter=PlainDrafter(), accept=rule, max_new_tokens=max_new_tokens, stop_ids=stop_ids
        ):
            yield replace(step, depth=num_layers)


def _written(
    prompt: SequenceOf[int],
    small: SmallModel,
    deferral: Deferral,
    sampler: Sampler,
    max_new_tokens: int,
    stop_ids: Collection[int],
    text: TextBuilder | None,
) -> list[Step]:
    """Return the small model's answer; nothing where it does not stand, or could outgrow what the model can see."""
    steps, logprobs, history = list[Step](), list[float](), [*prompt]
    if len(prompt) + max_new_tokens > small.capacity:
        return []
    began = perf_counter()
    while deferral.may_stand(logprobs, max_new_tokens):
        step = step_of_one(lambda: (_required(small.logits(history)), small.num_layers), sampler.choose, history)
        (token_id,), logits = step.token_ids, step.logits[0]
        history.append(token_id)
        num_seen = 1 if text is None else text.take([token_id], logits[None])[1]
        if num_seen or not logprobs:  # an empty text is judged by the token before which it ended
            logprobs.append(logprob_of(logits, token_id))
        steps.append(replace(step, logits=step.logits.copy()))
        has_ended = text is not None and text.finish_reason is not None
        if has_ended or token_id in stop_ids or len(steps) == max_new_tokens:
            first = steps[0]
            waited_s = perf_counter() - began - first.model_s - first.accept_s
            return [replace(first, waited_s=waited_s), *steps[1:]] if deferral.stands(logprobs) else []
    return []


def _required(logits: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert logits is not None, "the whole answer fits"
    return logits


METHOD = Method(
    name="cascade",
    needs=(DRAFT_MODEL,),
    writes=open_cascade,
    dial=Dial(
        unit="the probability that the small model gives its least likely tokens",
        least=0.0,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.3, 0.2, 0.15, 0.1),
    ),
)
