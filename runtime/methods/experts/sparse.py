"""Guess with fewer experts of the model's own layers; all of them verify, over the same cache. The text stays as it is.

The drafts come from the graphs whose FFNs are carved into experts, and which share their weights with the dense ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Drafter, ModelDrafter
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.methods.depth import DraftingExit, Exit, ExitText, MidpointStop, SelfDrafter
from skipstone.runtime.methods.experts.levels import EXPERTS, ActiveLevel, level_for, levels_of, sparse_part
from skipstone.runtime.methods.method import DrafterContext, Method
from skipstone.runtime.sampling import picker_for

__all__ = ["METHOD", "SparseText", "open_sparse"]

NAME: Final = "sparse"
# Where the bundle says nothing of levels.
USUAL_SHARE: Final = 0.5
# More than so many would be tried in vain too often.
MOST_LEVELS: Final = 3


class SparseText(ExitText):
    """The text as the graphs with fewer experts see it; what they cache is written over by the call that verifies."""

    def __init__(self, sequence: Sequence, level: ActiveLevel) -> None:
        super().__init__(sequence, 0)
        self._part = sparse_part(level)

    def _peek(self, token_ids: list[int]) -> NDArray[np.float32]:
        return self._sequence.peek_by(token_ids, self._part)


def open_sparse(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text; it tries the levels of the bundle and uses the one that pays most.

    A level is for `SelfDrafter` an exit before the first stage: the call that verifies runs all stages for all rows.
    Sources: CMoE (Pei et al., 2025) for the experts; a model's own sparse part as its drafter as in Sparse Self-
    Speculative Decoding; what `SelfDrafter` names. Raises: ConfigError as `Method.draft`.
    """
    drafts = [_drafting(context, level) for level in drafting_levels(context.model)]
    return SelfDrafter(drafts, name=NAME, timed=context.rule == "match")


def drafting_levels(model: Model) -> list[ActiveLevel]:
    """Return the levels that drafts may have: some of those that are known below all experts, else one."""
    known = [level for level in levels_of(model) if level.share < 1]
    return known[:MOST_LEVELS] or [level_for(model, USUAL_SHARE)]


def _drafting(context: DrafterContext, level: ActiveLevel) -> DraftingExit:
    text, picker = SparseText(context.sequence, level), picker_for(context.sampler, context.rule)
    return Exit(
        num_layers=0,
        num_stages=0,
        share=0.0,
        guess_share=read_share(context.model, level),
        text=text,
        judge=ModelDrafter(text, picker, name=NAME, rule=context.rule, stop=MidpointStop()),
    )


def read_share(model: Model, level: ActiveLevel) -> float:
    """Return the share of the weights that a step of a level reads."""
    d = model.manifest.dimensions
    attention = 2 * d.num_layers * d.hidden_size * d.head_size * (d.num_heads + d.num_kv_heads)
    ffn = 3 * d.num_layers * d.hidden_size * d.intermediate_size
    rest = attention + d.vocab_size * d.hidden_size
    return (rest + level.share * ffn) / (rest + ffn)


METHOD = Method(name=NAME, needs=(EXPERTS,), drafts=open_sparse, auto_rank=6)
