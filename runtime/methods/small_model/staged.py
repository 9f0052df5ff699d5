"""A chain of a small model in fewer calls of it: a drafter without a model guesses what the small one would say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Drafter, ModelDrafter, decode
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods.from_text import open_recycle
from skipstone.runtime.methods.method import DRAFT_MODEL, DrafterContext, Method
from skipstone.runtime.methods.small_model.follower import Follower, drafter_of, follower_of
from skipstone.runtime.sampling import Picker, Picks, Sampler, picker_for

__all__ = ["METHOD", "StagedChain", "open_staged", "open_staged_chain"]


def open_staged(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text whose small model is itself drafted for.

    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    model = drafter_of(context, "staged", own_tokenizer=False)
    text, picker = follower_of(context, model), picker_for(context.sampler, context.rule)
    chain = partial(open_staged_chain(model, text, context.sampler), text)
    return ModelDrafter(text, picker, name="staged", chain=chain, rule=context.rule)


class StagedChain:
    """Runs the decoding loop on the small model's sequence, with a drafter of its own.

    The guesses are those that the small model gives token by token, and as certain: the inner draft only saves calls.
    Trees may serve here where the target takes chains, because a small model's rows are cheap.

    Sources: staged speculative decoding (Spector and Re, 2023); SpecMQuant (Zhang et al., 2025), for the chain.
    """

    def __init__(self, inner: Drafter) -> None:
        """`inner` bears a text that is cut back: it looks at no more than the last tokens."""
        self._inner = inner

    def __call__(self, text: Follower, picker: Picker, most: int) -> Iterator[Picks]:
        """Yield at most `most` guesses, a call of the small model for each inner draft."""
        picked: list[Picks] = []

        def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
            """The rule `match`, its choice being the picker's."""
            rows, accepted = text.fit(logits), list[int]()
            row: int | None = 0
            while row is not None:
                picked.append(picker.pick(rows[row], [*text.sequence.token_ids, *accepted], 1))
                accepted += picked[-1].token_ids
                row = draft.child(row, accepted[-1])
            return accepted

        for _ in decode(text.sequence, drafter=self._inner, accept=accept, max_new_tokens=most, stop_ids=()):
            yield from picked
            picked.clear()


def open_staged_chain(model: Model, text: Follower, sampler: Sampler) -> StagedChain:
    """Return the chain of a small model, drafted for by recycling; its table is shared by all texts of the model."""
    context = DrafterContext(
        model=model, sampler=sampler, sequence=text.sequence, shared=model.shared, trees=text.sequence.takes_trees
    )
    return StagedChain(open_recycle(context))


METHOD = Method(name="staged", needs=(DRAFT_MODEL,), drafts=open_staged)
