"""Guess with a small model, token by token."""

from __future__ import annotations

from skipstone.runtime.decoding import Drafter, ModelDrafter
from skipstone.runtime.methods.method import DRAFT_MODEL, DrafterContext, Method
from skipstone.runtime.methods.small_model.follower import drafter_of, follower_of, has_same_tokenizer
from skipstone.runtime.methods.small_model.foreign import open_foreign
from skipstone.runtime.sampling import picker_for

__all__ = ["METHOD", "open_model"]


def open_model(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text. Raises: ConfigError when the bundle has no small model."""
    model = drafter_of(context, "model")
    drafter: Drafter
    if has_same_tokenizer(context, model):
        drafter = ModelDrafter(
            follower_of(context, model), picker_for(context.sampler, context.rule), rule=context.rule
        )
    else:
        drafter = open_foreign(context)
    # A call of many rows takes about a quarter of the time for each that a call of one takes.
    drafter.reading_share = model.manifest.total_bytes / context.model.manifest.total_bytes / 4
    return drafter


METHOD = Method(name="model", needs=(DRAFT_MODEL,), drafts=open_model, auto_rank=3)
