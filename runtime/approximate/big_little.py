"""Big little decoding: guesses of the little model stand unless they surprise the large one. Approximate.

At dial 0 it is the lossless drafter `big-little`; above, the same loop and drafter run under a rule that forgives.
"""

from __future__ import annotations

from skipstone.runtime.approximate.little import as_drafter_context
from skipstone.runtime.approximate.method import ApproximateContext, Opened
from skipstone.runtime.decode import decode
from skipstone.runtime.drafters.big_little import open_big_little
from skipstone.runtime.verification.lenient import forgive

__all__ = ["open_lenient"]


def open_lenient(context: ApproximateContext) -> Opened:
    """Open a text; the dial is the surprise in nats up to which a guess stands.

    Every step is a call of the large model, so its depth is all layers; its first `num_accepted` tokens are the little
    model's. The large one writes the first token, the one after each chain, and what takes the place of a guess.
    Source: Big Little Decoder (Kim et al., 2023), which sets 2 to 5.
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
