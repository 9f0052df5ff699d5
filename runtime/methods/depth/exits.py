"""An exit as the methods of this folder use it: where it stands, how often its tokens stand, and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from random import Random
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.costs import Plan, usual_s
from skipstone.runtime.engine import Draft, Sequence

__all__ = ["NO_EXIT_PAYS", "PRIOR_TOKENS", "TRY_AGAIN", "Counts", "Exit", "ExitText", "best_exit"]

NO_EXIT_PAYS = "no exit pays here, so one is only tried now and then"
# What was known before a text counts like so many of its tokens.
PRIOR_TOKENS = 32
# After so many tokens of plain decoding the best exit makes a few again, to see whether it pays by now.
TRY_AGAIN = 128

Text = TypeVar("Text")
Judge = TypeVar("Judge")


@dataclass(slots=True)
class Counts:
    """How many tokens of an exit stood, and how many did not; both fade."""

    hits: float = 0.0
    misses: float = 0.0

    def add(self, *, hits: float, misses: float) -> None:
        """Count tokens of one round."""
        self.hits += hits
        self.misses += misses

    def fade(self, memory: float) -> None:
        """Let what was seen count less, by the factor `memory`: what was bad may have become good."""
        self.hits *= memory
        self.misses *= memory

    def learn(self, draft: Draft, token_ids: SequenceOf[int]) -> None:
        """Count the guesses of one round that were reached, fed or not, against the tokens that came."""
        same = [guess == token_id for guess, token_id in zip(draft.token_ids, token_ids, strict=False)]
        num_right = same.index(False) if False in same else len(same)
        self.add(hits=num_right, misses=num_right < len(same))

    def draw_chance(self, random: Random) -> float:
        """Return how often a token may stand, drawn from what the counts leave open: at first, all."""
        return random.betavariate(self.hits + 1, self.misses + 1)

    @property
    def share(self) -> float:
        """The share of tokens that stood, of which some must have been seen."""
        return self.hits / (self.hits + self.misses)


@dataclass(slots=True, kw_only=True)
class Exit(Generic[Text, Judge]):
    """One exit on one text. It need not be calibrated: `judge` says which of its tokens stand, and differs by method.

    `num_layers` in `num_stages` stages run before it, a `share` of the whole depth; a guess runs `guess_share`, which
    is more where later stages go on behind. `text` is the text as the exit sees it, None where no draft is made.
    `judge` is a calibrated threshold for `exit`, a drafter that stops where it is unsure for `self` and `skip`, and
    the record of all texts for `free` and `adaptive`.
    """

    num_layers: int
    num_stages: int
    share: float
    text: Text
    judge: Judge
    guess_share: float = 0.0
    counts: Counts = field(default_factory=Counts, compare=False)


AnyExit = TypeVar("AnyExit", bound=Exit[Any, Any])


def best_exit(exits: Iterable[AnyExit], plan: Callable[[AnyExit], Plan]) -> tuple[AnyExit, Plan]:
    """Return the exit that promises the most tokens per second, the first of equals, and its plan.

    `plan` says what one exit promises, and is asked once for each, in order. It is the method's own: how often tokens
    stand is counted, drawn or told by laws, and a round is a chain that is verified at once or tokens that leave.
    """
    plans = [(exit, plan(exit)) for exit in exits]
    return max(plans, key=lambda pair: pair[1].rate)


class ExitText:
    """The target's own text as an exit sees it: what a draft model's `Follower` is, without a second model.

    It may be no exit: `then` are later stages that go on behind the first ones, those between left out. `guess_s` is
    the usual time of the calls of a guess, 0 before the first.
    """

    def __init__(
        self,
        sequence: Sequence,
        num_stages: int,
        then: tuple[int, ...] = (),
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._sequence, self._num_stages, self._then, self._clock = sequence, num_stages, then, clock
        self.token_ids: list[int] = []
        self.guess_s = 0.0

    def follow(self, history: SequenceOf[int]) -> int:
        """Take over the text; return how many guesses fit behind it. Cost: a copy of the text."""
        if self._sequence.num_waiting != 1 or self._sequence.is_stale:
            return 0
        self.token_ids = [*history]
        return self._sequence.steady_room

    def logits(self) -> NDArray[np.float32]:
        """Feed the last token to the stages; return the exit's logits [1, V], valid until the next call."""
        start = self._clock()
        waiting = self.token_ids[self._sequence.num_cached :]
        logits = self._peek(waiting)
        self.guess_s = usual_s(self.guess_s, self._clock() - start)
        return logits[None]

    def _peek(self, token_ids: list[int]) -> NDArray[np.float32]:
        return self._sequence.peek(token_ids, num_stages=self._num_stages, then=self._then, drafting=True)

    def take(self, token_id: int) -> None:
        """Put a token behind the last one, whose logits were asked for."""
        self.token_ids.append(token_id)
