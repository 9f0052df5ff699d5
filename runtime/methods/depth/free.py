"""Guess with an exit while it is sure; how sure it must be is learned from what the full model says.

FREE with strict rollback: what the full model would not have written is taken back, so the text is plain decoding's.
`runtime/methods/depth/adaptive.py` runs the same drafter and lets the guesses stand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from math import inf
from threading import Lock
from typing import Final, TypeAlias

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.costs import MIN_GAIN, MOST_BEHIND, ExitTimes, Plan, exit_times
from skipstone.runtime.decoding import Drafter, Round
from skipstone.runtime.engine import Draft, Model, SharedStores, exit_stages
from skipstone.runtime.methods.depth.beta_mixture import LAST_SHARE, WIDE_GRID, BetaMixture, decayed, fit_mixture
from skipstone.runtime.methods.depth.exits import PRIOR_TOKENS, TRY_AGAIN, Exit, ExitText, best_exit
from skipstone.runtime.methods.method import EXITS, DrafterContext, Method
from skipstone.runtime.sampling import Sampler, gap

__all__ = [
    "CHANCE",
    "FIRST_THRESHOLD",
    "METHOD",
    "ExitRecord",
    "FreeDrafter",
    "LearnedExit",
    "learned_exits",
    "open_free",
    "records_of",
]

# The paper's: the threshold before enough is seen, and the chance of a guess to be made, if right and wrong ones were
# equally many.
FIRST_THRESHOLD: Final = 0.9
CHANCE: Final = 0.4
# The laws are fitted again after so many tokens, at most so many times, to so many tokens at most.
UPDATE_EVERY: Final = 32
MOST_UPDATES: Final = 300
MOST_PAIRS: Final = 2048


class ExitRecord:
    """How sure an exit was of its guesses, and which were the full model's choice, over all texts of a model.

    `mixture` is what that told lately, None before it was enough. Safe to share between threads.
    """

    def __init__(self) -> None:
        self.mixture: BetaMixture | None = None
        self.num_updates = 0
        self.num_pairs = 0
        self._pairs: deque[tuple[float, bool]] = deque(maxlen=MOST_PAIRS)
        self._right, self._all = np.zeros(0), np.zeros(0)  # the confidences at the last update
        self._lock = Lock()

    def learn(self, pairs: SequenceOf[tuple[float, bool]]) -> None:
        """Take over pairs (confidence, was it right); after 300 updates nothing changes any more."""
        with self._lock:
            if self.num_updates == MOST_UPDATES:
                return
            self._pairs.extend(pairs)
            self.num_pairs += len(pairs)
            if self.num_pairs >= (self.num_updates + 1) * UPDATE_EVERY:
                self._update()

    def _update(self) -> None:
        self.num_updates += 1
        confidences, right = (np.asarray(column) for column in zip(*self._pairs, strict=True))
        self._right, self._all = confidences[right], confidences
        self.mixture = fit_mixture(confidences, right) or self.mixture

    def threshold(self, chance: float, *, by_share: bool = False) -> float:
        """Return from which confidence on the chance is larger than that; infinite where it is nowhere."""
        if self.mixture is None:
            return FIRST_THRESHOLD
        threshold = self.mixture.threshold(chance, grid=WIDE_GRID, by_share=by_share)
        return inf if threshold is None else threshold

    def share(self, threshold: float, *, prior: float, right_only: bool) -> float:
        """Return the share of guesses that were above a threshold, or were that and right.

        `prior` is believed as much as 32 guesses.
        """
        num_above = int(((self._right if right_only else self._all) > threshold).sum())
        return (num_above + prior * PRIOR_TOKENS) / (len(self._all) + PRIOR_TOKENS)


LearnedExit: TypeAlias = Exit[ExitText, ExitRecord]


class FreeDrafter(Drafter):
    """Drafts a chain of up to 16 guesses from an exit, before the first one that the exit is unsure of.

    It is unsure up to a threshold on the gap between the two likeliest tokens, above which guesses are estimated to be
    right with more than `chance`. Of several exits it uses the one that promises the most tokens per second, and
    none where that promises less than `min_gain` times plain decoding, but for its first 32 guesses and a try now and
    then.

    `final`: guesses stay in the text whatever the full model says. Then `chance` is that among all guesses, else that
    among as many right ones as wrong, as in the paper. `places`, where given, are those of the new tokens: the early
    ones must be surer, so that errors spread less. `is_learned`: whether enough was seen of the exit in use; `pays`:
    whether it promises enough. Every token that an exit guessed is learned from, fed or not, so the estimate is not one
    of sure guesses only.

    Source: FREE (Bae et al., 2023), with its rollback. There the threshold moves with each text, here every 32 tokens.
    """

    name = "free"
    peeks = True

    def __init__(
        self,
        exits: SequenceOf[LearnedExit],
        sampler: Sampler,
        *,
        times: ExitTimes,
        chance: float = CHANCE,
        final: bool = False,
        places: range | None = None,
        min_gain: float = MIN_GAIN,
    ) -> None:
        self.exits, self._sampler, self._times = tuple(exits), sampler, times
        self._chance, self._final, self._places, self._min_gain = chance, final, places, min_gain
        self.guesses: list[tuple[int, float]] = []  # of the last round, with their confidences, the unsure one too
        self._place = self._num_rested = 0
        self._choose()

    def _choose(self) -> None:
        """Take the exit that promises the most now, and its threshold."""
        self.used, plan = best_exit(self.exits, self._plan)
        self.threshold = self.used.judge.threshold(self._chance, by_share=self._final)
        self.is_learned = self.used.judge.mixture is not None
        self._num_updates = self.used.judge.num_updates
        known_s = self._times.full_s if self._num_updates else inf  # what nobody tried may pay
        self.pays = plan.rate * known_s >= self._min_gain

    def _plan(self, exit: LearnedExit) -> Plan:
        """Return what an exit promises; unseen, it is sure of as many tokens as it has layers."""
        threshold = exit.judge.threshold(self._chance, by_share=self._final)
        share = exit.judge.share(threshold, prior=exit.share, right_only=not self._final)
        return Plan(MOST_BEHIND, self._times.rate(exit.num_layers, share))

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.guesses, self._place = [], len(history)
        if self._num_updates != self.used.judge.num_updates:
            self._choose()
        if self._rests():
            return Draft.empty()
        most = min(limit, self.used.text.follow(history), MOST_BEHIND)
        return Draft.chain([*self._sure(most)], source=self.name)

    def _rests(self) -> bool:
        self._num_rested = 0 if self.pays else self._num_rested + 1
        return self._num_rested % TRY_AGAIN != 0

    def _sure(self, most: int) -> list[int]:
        """Return the guesses before the first unsure one."""
        text, sure = self.used.text, list[int]()
        while len(sure) < most:
            scores = self._sampler.scores(text.logits()[0], text.token_ids)
            guess, confidence = int(scores.argmax()), float(gap(scores[None].astype(np.float32))[0])
            self.guesses.append((guess, confidence))
            if confidence <= self.threshold_at(len(text.token_ids)):
                break
            text.take(guess)
            sure.append(guess)
        return sure

    def threshold_at(self, place: int) -> float:
        """Return the threshold for the token at a place of the text, never below that for its chance."""
        if self._places is None:
            return self.threshold
        first = min(self.threshold / LAST_SHARE, 1.0)
        return max(self.threshold, decayed(first, place - self._places.start, len(self._places)))

    def observe(self, seen: Round) -> None:
        guesses, self.guesses = self.guesses, []
        if guesses:
            wanted = self._choices(seen) if self._final else seen.token_ids
            pairs = zip(guesses, wanted, strict=False)
            self.used.judge.learn([(confidence, guess == token_id) for (guess, confidence), token_id in pairs])

    def _choices(self, seen: Round) -> list[int]:
        """Return what the full model would have written in place of each token, behind those before it."""
        text = [*self.used.text.token_ids[: self._place], *seen.token_ids]
        return [self._sampler.choose(seen.logits[row], text[: self._place + row]) for row in range(len(seen.token_ids))]


def records_of(model: Model, shared: SharedStores, name: str) -> dict[int, ExitRecord]:
    """Return what the method `name` knows of each exit, by number of layers. Raises: ConfigError without exits."""
    exits = exit_stages(model)
    return shared.get(f"{name} exits", lambda: {num_layers: ExitRecord() for num_layers in exits})


def open_free(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text. Raises: ConfigError without exits, or for a rule that needs laws."""
    model = context.model
    if context.rule != "match":
        raise ConfigError(f"free has no laws of its guesses, which the rule {context.rule} needs; use match or self")
    stages, records = exit_stages(model), records_of(model, context.shared, "free")
    texts = {num_layers: ExitText(context.sequence, num_stages) for num_layers, num_stages in stages.items()}
    return FreeDrafter(learned_exits(model, texts, records), context.sampler, times=exit_times(model))


def learned_exits(model: Model, texts: Mapping[int, ExitText], records: Mapping[int, ExitRecord]) -> list[LearnedExit]:
    """Return the exits of a model, each with its text and its record, by number of layers."""
    return [
        Exit(
            num_layers=num_layers,
            num_stages=num_stages,
            share=num_layers / model.manifest.dimensions.num_layers,
            text=texts[num_layers],
            judge=records[num_layers],
        )
        for num_layers, num_stages in exit_stages(model).items()
    ]


METHOD = Method(name="free", needs=(EXITS,), drafts=open_free)
