"""Big little decoding: a small model writes until it is unsure, and the large one checks what it wrote.

The same drafter serves both twins. Checked by `match` the text is plain decoding's; above 0 the dial says how far a
guess may surprise the large model and still stand.
Source: Big Little Decoder (Kim et al., 2023), whose fallback policy ends a chain, and whose rollback policy forgives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Accept, ConfidenceStop, Drafter, ModelDrafter, decode
from skipstone.runtime.engine import Draft
from skipstone.runtime.methods.method import DRAFT_MODEL, ApproximateContext, Dial, DrafterContext, Method, Opened
from skipstone.runtime.methods.small_model.follower import as_drafter_context, drafter_of, follower_of
from skipstone.runtime.sampling import Sampler, logprob_of, picker_for

__all__ = ["METHOD", "forgive", "open_big_little", "open_lenient"]

NAME = "big-little"
FALLBACK = 0.6
LONGEST = 10


def open_big_little(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text: up to 10 guesses, to the first whose probability is below 0.6.

    That last one is proposed too: a row more costs little, and it may be right. Unlike that of `model`, the threshold
    never moves. Both numbers are the paper's defaults.
    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    text = follower_of(context, drafter_of(context, NAME, own_tokenizer=False))
    stop = ConfidenceStop(threshold=FALLBACK, step=0.0, longest=LONGEST)
    return ModelDrafter(text, picker_for(context.sampler, context.rule), name=NAME, rule=context.rule, stop=stop)


def open_lenient(context: ApproximateContext) -> Opened:
    """Open a text; the dial is the surprise in nats up to which a guess stands.

    Every step is a call of the large model, so its depth is all layers; its first `num_accepted` tokens are the small
    model's. The large one writes the first token, the one after each chain, and what takes the place of a guess. The
    paper sets the dial to 2 to 5.
    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    steps = decode(
        context.sequence,
        drafter=open_big_little(as_drafter_context(context)),
        accept=forgive(context.sampler, context.sequence.token_ids, dial=context.setting),
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    promise = f"big-little up to {context.setting:g} nats of surprise: agreement not calibrated"
    return Opened(steps=steps, promise=promise if context.setting else "all tokens as the full model's")


def forgive(sampler: Sampler, history: Sequence[int], *, dial: float) -> Accept:
    """Return the rule for chains that keeps guesses up to the first that surprises the model by more than the dial.

    Surprise is -log p in nats, of the raw logits. A guess that is the model's choice always stands; the first that is
    neither is replaced by that choice. With a dial of 0 this is `match`. What may not be chosen at all, the sampler of
    the drafter leaves out: it has the same processors.
    """

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        text, start = list(history), len(history)
        for row, guess in zip(logits, draft.token_ids, strict=False):
            choice = sampler.choose(row, text)
            stands = guess == choice or -logprob_of(row, guess) <= dial
            text.append(guess if stands else choice)
            if not stands:
                return text[start:]
        text.append(sampler.choose(logits[len(draft)], text))
        return text[start:]

    return accept


METHOD = Method(
    name=NAME,
    needs=(DRAFT_MODEL,),
    drafts=open_big_little,
    writes=open_lenient,
    dial=Dial(
        unit="surprise in nats",
        least=0.0,
        most=math.inf,
        plain=0.0,
        settings=(0.0, 1.0, 2.0, 3.0, 5.0),
    ),
)
