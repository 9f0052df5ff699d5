"""Guess with a small model: token by token, as a tree, or with a cheaper drafter for the small model."""

from __future__ import annotations

from skipstone.runtime.decoding import Drafter, ModelDrafter, picker_for
from skipstone.runtime.methods.method import DrafterContext
from skipstone.runtime.methods.small_model.follower import _same_tokenizer, drafter_of, follower_of

__all__ = ["open_model"]


def open_model(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text. Raises: ConfigError when the bundle has no small model."""
    model = drafter_of(context, "model")
    drafter: Drafter
    if _same_tokenizer(context, model):
        drafter = ModelDrafter(
            follower_of(context, model), picker_for(context.sampler, context.rule), rule=context.rule
        )
    else:
        from skipstone.runtime.methods.small_model.foreign import open_foreign

        drafter = open_foreign(context)
    # A call of many rows takes about a quarter of the time for each that a call of one takes.
    drafter.reading_share = model.manifest.total_bytes / context.model.manifest.total_bytes / 4
    return drafter
