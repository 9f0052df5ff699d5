"""Guess with the model's own first stages: an exit drafts, the other stages verify what the first ones already gave."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from random import Random
from time import perf_counter
from typing import Final, TypeAlias

from skipstone.runtime.costs import TIMES_MEMORY, Plan, best_length, usual_s
from skipstone.runtime.decoding import Drafter, ModelDrafter, Round
from skipstone.runtime.engine import Draft, exit_stages
from skipstone.runtime.methods.depth.exits import Exit, ExitText, best_exit
from skipstone.runtime.methods.method import EXITS, DrafterContext, Method
from skipstone.runtime.sampling import picker_for

__all__ = ["METHOD", "DraftingExit", "MidpointStop", "SelfDrafter", "open_self"]

COUNTS_MEMORY: Final = 0.99
LONGEST: Final = 8
STOP_MEMORY: Final = 0.95
# Before rounds show it: what a row more adds to a call, as a share of a call of one row.
ROW_SHARE: Final = 0.1


class MidpointStop:
    """Says after which guess a chain ends, by the mean confidences of guesses that stood and that fell lately.

    Both fade with each round. Guesses behind the first that fell say nothing: nobody knows whether they would stand.
    Source: DEL (Zarch et al., 2025), its dynamic draft exit.
    """

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.longest = longest
        self._asked: list[float] = []  # since the last update
        self._stood, self._fell = [0.0, 0.0], [0.0, 0.0]  # how many, and the sum of their confidences

    @property
    def threshold(self) -> float:
        """The confidence, 0..1, below which a guess is the last; 0 until a guess has stood and one has fallen."""
        if not self._stood[0] or not self._fell[0]:
            return 0.0
        return (self._stood[1] / self._stood[0] + self._fell[1] / self._fell[0]) / 2

    def is_unsure(self, confidence: float) -> bool:
        """Return whether a guess of this confidence, 0..1, shall be the last; it is still proposed."""
        self._asked.append(confidence)
        return confidence < self.threshold

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        """Learn from one round, of whose guesses it was asked about the last; about none, it learns nothing."""
        asked, self._asked = self._asked[-num_drafted:], []
        if len(asked) < num_drafted:
            return
        stood, fell = asked[:num_accepted], asked[num_accepted : num_accepted + 1]
        for counts, seen in ((self._stood, stood), (self._fell, fell)):
            counts[0] = STOP_MEMORY * counts[0] + len(seen)
            counts[1] = STOP_MEMORY * counts[1] + sum(seen)


DraftingExit: TypeAlias = Exit[ExitText, ModelDrafter]
"""The call that verifies need not run the exit's layers again. `counts` are of guesses that were reached."""


class SelfDrafter(Drafter):
    """Drafts chains from the exit that promises the most tokens per second, as long as that promises.

    Each exit learns its chances by confidence, in deciles, and stops where it is unsure, or where one more guess and
    its row take longer than the tokens that they promise are worth at the round's rate. What a guess and a call cost is
    measured round by round; the first rounds try each exit once, and then plain decoding. How often guesses stand is
    drawn anew each round from what is known of it: so an exit that was seldom used is tried now and then, and none is
    used where plain decoding promises more. The draws are the same for each text. `plain_s` is what a plain call
    takes, 0 before the first, and `row_share` what a row more adds to a call. Where an exit's `share` is 0, what drafts
    is no part of the model's depth, and the call that verifies runs all of it.
    Where it is not `timed`, layers take the place of seconds: under rules that draw by chance the text hangs on
    what is drafted, and shall not hang on how busy the machine is.
    Sources: LayerSkip (Elhoushi et al., 2024), section 2 of its inference; DEL for the choice of exit and its midpoint
    threshold; Thompson sampling as in EESD (Liu et al., 2024), of the exit; its stop by calibrated confidence.
    """

    def __init__(
        self, exits: SequenceOf[DraftingExit], *, name: str = "self", timed: bool = True, random: Random | None = None
    ) -> None:
        self.name, self.exits, self._timed = name, exits, timed
        self.peeks = any(exit.num_stages for exit in exits)
        self._used: DraftingExit | None = None  # in this round
        self._last = Draft.empty()
        self.plain_s = 0.0 if timed else 1.0
        self.row_share = ROW_SHARE
        self._random = random or Random(0)  # the same text drafts the same

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self._used, length = self._choose()
        limit = min(limit, length)
        self._last = self._used.judge.propose(history, limit=limit, min_chance=min_chance) if limit else Draft.empty()
        return self._last

    def _choose(self) -> tuple[DraftingExit, int]:
        """Return the exit for this round and how many guesses it makes at most."""
        untried = [exit for exit in self.exits if not exit.text.guess_s]
        if untried:
            return untried[0], 1
        if not self.plain_s:
            return self.exits[0], 0
        chosen, plan = best_exit(self.exits, self._plan)
        # The plan says whether to draft; how long is for the confidences to say, guess by guess.
        verify = self._verify_s(chosen)
        chosen.judge.least_chance = plan.rate * (self._guess_s(chosen) + verify[2] - verify[1])
        num_shown = int(chosen.counts.hits)  # one that has not shown much is tried with few
        return chosen, min(LONGEST, 1 + num_shown) if plan.length else 0

    def _plan(self, exit: DraftingExit) -> Plan:
        """Return the best chain of an exit, at a chance that is drawn anew."""
        return best_length(exit.counts.draw_chance(self._random), self._guess_s(exit), self._verify_s(exit))

    def _guess_s(self, used: DraftingExit) -> float:
        return used.text.guess_s if self._timed else used.guess_share

    def _verify_s(self, used: DraftingExit) -> list[float]:
        """Return what a call takes that verifies 0, 1, 2 ... guesses: with some, the first stages saw all but one."""
        plain = self.plain_s
        late, tail = plain * (1 - used.share), plain * used.share
        return [plain, *(tail + late * (1 + self.row_share * length) for length in range(1, LONGEST + 1))]

    def prior(self, level: int) -> float:
        return self.exits[0].judge.prior(level)

    def observe(self, seen: Round) -> None:
        used, self._used = self._used, None
        if used is None:  # of the prompt, or of others' drafts
            return
        for exit in self.exits:  # used or not
            exit.counts.fade(COUNTS_MEMORY)
        if len(self._last):
            used.counts.learn(self._last, seen.token_ids)
        used.judge.observe(seen)
        if self._timed:
            self._learn_times(seen, used.share)

    def _learn_times(self, seen: Round, share: float) -> None:
        """Learn what a plain call takes, or what a row adds to the stages behind the exit.

        Those before it had seen all rows but the last, or with a draft that was cut all.
        """
        length = len(seen.draft)
        if not length and not seen.num_peeked:
            self.plain_s = usual_s(self.plain_s, seen.model_s)
        is_ours = length and seen.draft.source == self.name and (seen.num_peeked or not share)
        if not is_ours or not self.plain_s:
            return
        tail = share if seen.num_peeked <= length else 0.0
        grown = (seen.model_s / self.plain_s - tail) / (1 - share) - 1
        self.row_share += (min(max(grown / length, 0.0), 1.0) - self.row_share) * (1 - TIMES_MEMORY)


def open_self(context: DrafterContext, *, clock: Callable[[], float] = perf_counter) -> Drafter:
    """Return a drafter of chains for one text; `clock` times guesses. Raises: ConfigError without exits."""
    manifest = context.model.manifest
    exits = []
    for num_layers, num_stages in exit_stages(context.model).items():
        text, share = ExitText(context.sequence, num_stages, clock=clock), num_layers / manifest.dimensions.num_layers
        picker = picker_for(context.sampler, context.rule)
        drafter = ModelDrafter(text, picker, name="self", rule=context.rule, stop=MidpointStop())
        exits.append(
            Exit(
                num_layers=num_layers,
                num_stages=num_stages,
                share=share,
                guess_share=share,
                text=text,
                judge=drafter,
            )
        )
    return SelfDrafter(exits, timed=context.rule == "match")


METHOD = Method(name="self", needs=(EXITS,), drafts=open_self, auto_rank=4)
