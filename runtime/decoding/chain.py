"""A chain of guesses from any text that can be read ahead: the drafter that proposes it, and where it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.acceptance import ConfidenceScale, level_of, middle_of
from skipstone.runtime.decoding.drafter import Drafter, Round
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Picker, Picks, Rule

__all__ = ["ConfidenceStop", "DraftText", "ModelDrafter", "Stop"]

RATE_MEMORY = 0.5
THRESHOLD_MEMORY = 0.9

Chain = Callable[[Picker, int], Iterator[Picks]]
"""(picker, most) -> the guesses behind a text, one after the other; left early when enough."""


class Followed(Protocol):
    """A text behind which something guesses."""

    def follow(self, history: Sequence[int]) -> int:
        """Take over the text; return how many guesses fit behind it."""
        ...


@runtime_checkable
class DraftText(Followed, Protocol):
    """A text as a small model sees it: a `Follower`, or an exit of the large one."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The text and what was taken behind it."""
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


class ConfidenceStop:
    """Says after which guess a chain ends. Where too many guesses are rejected it asks for more confidence.

    Invariant: 0 <= `threshold` <= 1. `rate` is the share of guesses accepted lately.

    Source: Draft & Verify (Zhang et al., 2024), its threshold controller and defaults.
    """

    def __init__(
        self, *, threshold: float = 0.6, wanted_rate: float = 0.9, step: float = 0.01, longest: int = 8
    ) -> None:
        """`longest` is the most guesses of a chain; one that long and mostly accepted leaves the threshold as it is."""
        if not (0 <= threshold <= 1 and 0 <= wanted_rate <= 1 and 0 <= step <= 1):
            raise ConfigError(
                f"threshold, wanted_rate and step must lie between 0 and 1, got {threshold}, {wanted_rate} and {step}"
            )
        if longest < 1:
            raise ConfigError(f"longest must be at least 1, got {longest}")
        self.threshold, self.rate, self.longest = threshold, 0.0, longest
        self._wanted_rate, self._step = wanted_rate, step

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        return confidence < self.threshold

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round with at least one guess."""
        self.rate = RATE_MEMORY * self.rate + (1 - RATE_MEMORY) * num_accepted / num_drafted
        wanted = self.threshold
        if self.rate < self._wanted_rate:
            wanted += self._step
        elif num_drafted < self.longest:
            wanted -= self._step
        moved = THRESHOLD_MEMORY * self.threshold + (1 - THRESHOLD_MEMORY) * wanted
        self.threshold = min(max(moved, 0.0), 1.0)


class ModelDrafter(Drafter):
    """Drafts a chain with a small model that has the target's tokens, until it is no longer sure enough.

    Asked with a `min_chance`, it stops before the guess at which the product of its chances, calibrated by what was
    accepted, falls below that. Else it stops after the first guess it is unsure of, as `stop` says. Levels are deciles
    of confidence. Who knows prices sets `least_chance`: asked without a `min_chance`, it also stops after the guess up
    to which the chain stands with less than that, since one more would not be worth it. All that it learns, in `stop`
    and `scale`, it forgets with the text, so that a text can be made again.

    Sources: speculative decoding (Leviathan et al., 2023); for the product rule SpecDec++ (Huang et al., 2024).
    Cost: one call of the small model a guess, and a few passes over V.
    """

    def __init__(
        self,
        text: Followed,
        picker: Picker,
        *,
        name: str = "model",
        chain: Chain | None = None,
        rule: Rule = "match",
        stop: Stop | None = None,
    ) -> None:
        """Without a `chain`, which guesses behind `text`, that is a `DraftText` and guesses come from its logits."""
        self.name, self.least_chance = name, 0.0
        self._text, self._picker, self._rule = text, picker, rule
        if chain is None:
            assert isinstance(text, DraftText), "what else makes the guesses?"
            chain = partial(token_by_token, text)
        self._chain = chain
        self.scale = ConfidenceScale()
        self.stop: Stop = stop or ConfidenceStop()
        self._last = Draft.empty()

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        most = min(limit, self._text.follow(history))
        if min_chance == 0:
            most = min(most, self.stop.longest)
        self._picker.start(len(history))
        self._last = self._draft([*self._worthy(most, min_chance)])
        return self._last

    def _worthy(self, most: int, min_chance: float) -> Iterator[Picks]:
        chance = 1.0
        for picks in self._chain(self._picker, most):
            confidence = picks.confidences[0]
            chance *= self.scale.chance(confidence)
            if chance < min_chance:
                return
            yield picks
            if min_chance == 0 and (self.stop.is_unsure(confidence) or chance < self.least_chance):
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
        self.scale.learn(self._last, seen.token_ids)
        self._last = Draft.empty()
        if seen.draft.source == self.name and len(seen.draft):
            self.stop.update(num_accepted=len(seen.rows) - 1, num_drafted=len(seen.draft))
