"""Guess with a small model: token by token, as a tree, or with a cheaper drafter for the small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.draft import Draft
from skipstone.runtime.drafters.confidence import Calibration, level_of, middle_of
from skipstone.runtime.drafters.confidence_stop import ConfidenceStop
from skipstone.runtime.drafters.draft_tree import ChainsDrafter, TreeDrafter
from skipstone.runtime.drafters.drafter import Drafter, Round
from skipstone.runtime.drafters.follower import Follower
from skipstone.runtime.drafters.picks import Picker, Picks, Rule, picker_for
from skipstone.runtime.drafters.registry import DrafterContext
from skipstone.runtime.drafters.staged import open_staged_chain
from skipstone.runtime.drafters.vocabulary import same_tokenizer
from skipstone.runtime.model import Model

__all__ = ["DraftText", "ModelDrafter", "Stop", "drafter_of", "follower_of", "open_model", "open_staged", "open_tree"]

Chain = Callable[[Picker, int], Iterator[Picks]]
"""(picker, most) -> the guesses behind a text, one after the other; left early when enough."""


class DraftText(Protocol):
    """A text as a small model sees it: a `Follower`, or an exit of the large one."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The text and what was taken behind it."""
        ...

    def follow(self, history: Sequence[int]) -> int:
        """Take over the text; return how many guesses fit behind it."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return logits [1, V] for what follows the last token."""
        ...

    def take(self, token_id: int) -> None:
        """Put a token behind the last one."""
        ...


def token_by_token(text: DraftText, picker: Picker, most: int) -> Iterator[Picks]:
    """Yield guesses, one model call each."""
    for _ in range(most):
        picks = picker.pick(text.logits()[0], text.token_ids, 1)
        yield picks
        text.take(picks.token_ids[0])


class Stop(Protocol):
    """Says where a chain ends: after a guess of which it is unsure, at the latest after `longest`."""

    @property
    def longest(self) -> int:
        """The most guesses of a chain."""
        ...

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        ...

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round with at least one guess."""
        ...


class ModelDrafter(Drafter):
    """Drafts a chain with a small model that has the target's tokens, until it is no longer sure enough.

    Asked with a `min_chance`, it stops before the guess at which the product of its chances, calibrated by what was
    accepted, falls below that. Else it stops after the first guess it is unsure of, as `stop` says. Levels are deciles
    of confidence. Who knows prices sets `least_chance`: asked without a `min_chance`, it also stops after the guess up
    to which the chain stands with less than that, since one more would not be worth it. All it learns it forgets with
    the text, so that a text can be made again.

    Sources: speculative decoding (Leviathan et al., 2023); for the product rule SpecDec++ (Huang et al., 2024).
    Cost: one call of the small model a guess, and a few passes over V.
    """

    def __init__(
        self,
        text: DraftText,
        picker: Picker,
        *,
        name: str = "model",
        chain: Chain | None = None,
        rule: Rule = "match",
        stop: Stop | None = None,
    ) -> None:
        self.name, self.least_chance = name, 0.0
        self._text, self._picker, self._rule = text, picker, rule
        self._chain = chain or partial(token_by_token, text)
        self._calibration = Calibration()
        self._stop: Stop = stop or ConfidenceStop()
        self._last = Draft.empty()

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        most = min(limit, self._text.follow(history))
        if min_chance == 0:
            most = min(most, self._stop.longest)
        self._picker.start(len(history))
        self._last = self._draft([*self._worthy(most, min_chance)])
        return self._last

    def _worthy(self, most: int, min_chance: float) -> Iterator[Picks]:
        chance = 1.0
        for picks in self._chain(self._picker, most):
            confidence = picks.confidences[0]
            chance *= self._calibration.chance(confidence)
            if chance < min_chance:
                return
            yield picks
            if min_chance == 0 and (self._stop.is_unsure(confidence) or chance < self.least_chance):
                return

    def _draft(self, chain: Sequence[Picks]) -> Draft:
        laws = [picks.law for picks in chain if picks.law is not None]
        rows = range(1, len(chain) + 1)
        return Draft(
            tuple(picks.token_ids[0] for picks in chain),
            self.name,
            tuple(range(len(chain))),
            tuple(level_of(picks.confidences[0]) for picks in chain),
            (*laws, None) if laws else (),
            (*((row,) for row in rows), ()) if laws and self._rule == "k-seq" else (),
        )

    def prior(self, level: int) -> float:
        return middle_of(level)

    def observe(self, seen: Round) -> None:
        self._calibration.learn(self._last, seen.token_ids)
        self._last = Draft.empty()
        if seen.draft.source == self.name and len(seen.draft):
            self._stop.update(num_accepted=len(seen.rows) - 1, num_drafted=len(seen.draft))


def open_model(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text. Raises: ConfigError when the bundle has no small model."""
    model = drafter_of(context, "model")
    drafter: Drafter
    if _same_tokenizer(context, model):
        drafter = ModelDrafter(
            follower_of(context, model), picker_for(context.sampler, context.rule), rule=context.rule
        )
    else:
        from skipstone.runtime.drafters.foreign import open_foreign

        drafter = open_foreign(context)
    # A call of many rows takes about a quarter of the time for each that a call of one takes.
    drafter.reading_share = model.manifest.total_bytes / context.model.manifest.total_bytes / 4
    return drafter


def open_tree(context: DrafterContext) -> Drafter:
    """Return a drafter of trees for one text: under the rule k-seq of several chains drawn independently.

    Raises: ConfigError where drafts may not branch, or the bundle has no small model with the target's tokenizer.
    """
    text = follower_of(context, drafter_of(context, "tree", own_tokenizer=False))
    if not context.trees:
        raise ConfigError("this text takes chains only, which tree does not draft; use model")
    if not text.sequence.takes_trees:
        raise ConfigError("the small model of the bundle cannot run trees, because its layers see a window; use model")
    picker = picker_for(context.sampler, context.rule)
    if context.rule == "k-seq" and not context.sampler.greedy:
        return ChainsDrafter(text, picker)
    return TreeDrafter(text, picker)


def open_staged(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text whose small model is itself drafted for.

    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    model = drafter_of(context, "staged", own_tokenizer=False)
    text, picker = follower_of(context, model), picker_for(context.sampler, context.rule)
    chain = partial(open_staged_chain(model, text, context.sampler), text)
    return ModelDrafter(text, picker, name="staged", chain=chain, rule=context.rule)


def drafter_of(context: DrafterContext, name: str, *, own_tokenizer: bool = True) -> Model:
    """Return the small model for method `name`; with `own_tokenizer` its tokenizer may be another than the target's.

    Raises: ConfigError when there is none, or none that serves.
    """
    model = context.model.drafter
    if model is None:
        raise ConfigError(
            f"decoding method {name!r} needs a small model, and the bundle has none; "
            "make one with `skipstone export CHECKPOINT -o OUT --drafter SMALL_CHECKPOINT`, or name a smaller bundle "
            "with --drafter"
        )
    if not own_tokenizer and not _same_tokenizer(context, model):
        raise ConfigError(
            f"decoding method {name!r} needs a small model with the tokenizer of the large one, which this is not; "
            "use model, which translates"
        )
    return model


def _same_tokenizer(context: DrafterContext, model: Model) -> bool:
    """Return whether the two have the same tokens; compared once for all texts."""
    target = context.model.tokenizer
    return context.shared.get("drafter has the target's tokenizer", lambda: same_tokenizer(target, model.tokenizer))


def follower_of(context: DrafterContext, model: Model) -> Follower:
    """Return a text of the small model that follows the target's."""
    vocab_size = context.model.manifest.dimensions.vocab_size
    return Follower(model, capacity=context.sequence.capacity, vocab_size=vocab_size)
