"""Guess with a small model, token by token."""

from __future__ import annotations

from skipstone.runtime.costs import MAX_ROWS, known_curve
from skipstone.runtime.decoding import Drafter, ModelDrafter
from skipstone.runtime.engine import Model
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
    drafter.reading_share = _reading_share(model, context.model)
    return drafter


def _reading_share(model: Model, target: Model) -> float:
    """Return what reading a token costs the small model, as a share of the target's plain step.

    Bytes tell it on one device, of two their cost curves where they are known.
    """
    own, other = (known_curve(one) if target.draft_device is not target.device else None for one in (model, target))
    if own is not None and other is not None:
        return own.costs(1, max_rows=MAX_ROWS)[MAX_ROWS] / MAX_ROWS / other.costs(1, max_rows=1)[1]
    # A call of many rows takes about a quarter of the time for each that a call of one takes.
    return model.manifest.total_bytes / target.manifest.total_bytes / 4


METHOD = Method(name="model", needs=(DRAFT_MODEL,), drafts=open_model, auto_rank=3)
