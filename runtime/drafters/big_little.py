"""Big little decoding without its errors: a little model writes until it is unsure, the large one checks it."""

from __future__ import annotations

from skipstone.runtime.drafters.confidence_stop import ConfidenceStop
from skipstone.runtime.drafters.draft_model import ModelDrafter, drafter_of, follower_of
from skipstone.runtime.drafters.drafter import Drafter
from skipstone.runtime.drafters.picks import picker_for
from skipstone.runtime.drafters.registry import DrafterContext

__all__ = ["open_big_little"]

NAME = "big-little"
FALLBACK = 0.6
LONGEST = 10


def open_big_little(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text: up to 10 guesses, to the first whose probability is below 0.6.

    That last one is proposed too: a row more costs little, and it may be right. Unlike that of `model`, the threshold
    never moves. `runtime/approximate/big_little.py` runs the same drafter under a rule that forgives.
    Source: Big Little Decoder (Kim et al., 2023), its fallback policy and defaults.
    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    text = follower_of(context, drafter_of(context, NAME, own_tokenizer=False))
    stop = ConfidenceStop(threshold=FALLBACK, step=0.0, longest=LONGEST)
    return ModelDrafter(text, picker_for(context.sampler, context.rule), name=NAME, rule=context.rule, stop=stop)
