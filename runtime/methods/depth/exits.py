"""Which exit makes the tokens of a text, and which of them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.costs import ExitTimes, exit_times, usual_s
from skipstone.runtime.engine import Model, Sequence, exit_stages
from skipstone.runtime.methods.depth.calibrate import COMMAND, Calibration, exits_note, require_same_exits
from skipstone.runtime.methods.method import require_agreement
from skipstone.runtime.sampling import SATURATION, confidence_named

__all__ = [
    "MIN_GAIN",
    "NO_EXIT_PAYS",
    "Exit",
    "ExitPolicy",
    "ExitText",
    "exits_for",
    "open_policy",
    "require_calibration",
]

# An exit is used where it promises so much more than plain decoding, as the planner has it.
MIN_GAIN = 1.03
NO_EXIT_PAYS = "no exit pays here, so one is only tried now and then"
# The calibration's share counts like so many tokens of the text, and a token half as much after some 90 more.
PRIOR_TOKENS = 32
MEMORY = 1 - 1 / 128
# After so many tokens of plain decoding the best exit makes a few again, to see whether it pays by now.
TRY_AGAIN = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """An exit as one setting uses it: tokens leave where the measure `metric` is above `threshold`.

    `share` is how many did so in calibration.
    """

    num_layers: int
    num_stages: int
    metric: str
    threshold: float
    share: float

    @property
    def reads_states(self) -> bool:
        """Whether it asks the hidden states around the exit's last stage, which need no head, and not the logits."""
        return self.metric == SATURATION

    def are_sure(self, shown: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which tokens [N] are believed, by what the exit shows: logits [N, V], or hidden states [N, 2, E]."""
        return np.asarray(confidence_named(self.metric)(shown) > self.threshold)


class ExitPolicy:
    """Chooses, for one text, the exit that promises the most tokens per second, or none where none pays.

    How many tokens leave is learned as the text goes on. The times are fixed, so the same files give the same text.
    """

    def __init__(
        self, exits: SequenceOf[Exit], times: ExitTimes | None, *, num_layers: int, min_gain: float = MIN_GAIN
    ) -> None:
        """`times` None: the first exit, if any, is always used. `num_layers` is the full depth."""
        self._exits, self._times, self.num_layers, self._min_gain = exits, times, num_layers, min_gain
        self._sure = {one.num_layers: one.share * PRIOR_TOKENS for one in exits}
        self._seen = {one.num_layers: float(PRIOR_TOKENS) for one in exits}
        self._num_plain = 0

    def choose(self) -> Exit | None:
        """Return the exit for the tokens up to the next call of all stages; None is a plain call."""
        if not self._exits:
            return None
        if self._times is None:
            return self._exits[0]
        best = max(self._exits, key=self.rate)
        if self.pays:
            return best
        self._num_plain += 1
        return best if self._num_plain % TRY_AGAIN == 0 else None

    @property
    def pays(self) -> bool:
        """Whether an exit promises enough now, or none is there that could."""
        if self._times is None or not self._exits:
            return True
        return max(map(self.rate, self._exits)) * self._times.full_s >= self._min_gain

    def rate(self, one: Exit) -> float:
        """Return the tokens per second that an exit promises, by what left so far."""
        if self._times is None:
            return 0.0
        share = self._sure[one.num_layers] / self._seen[one.num_layers]
        return self._times.rate(one.num_layers, share, reads_states=one.reads_states)

    def is_sure(self, one: Exit, shown: NDArray[np.float32]) -> bool:
        """Return whether the exit's next token is believed, by its logits [V] or hidden states [2, E]; learn it."""
        sure, key = bool(one.are_sure(shown[None])[0]), one.num_layers
        self._sure[key] = MEMORY * self._sure[key] + sure
        self._seen[key] = MEMORY * self._seen[key] + 1
        return sure


def exits_for(model: Model, calibration: Calibration, min_agreement: float) -> list[Exit]:
    """Return the exits at which tokens may leave when `min_agreement` of all are to be the full model's choice."""
    stages, found = exit_stages(model), []
    for one in calibration.exits:
        level = one.level(min_agreement)
        if one.num_layers in stages and level is not None and level.threshold is not None:
            found.append(
                Exit(
                    num_layers=one.num_layers,
                    num_stages=stages[one.num_layers],
                    metric=level.metric,
                    threshold=level.threshold,
                    share=level.share,
                )
            )
    return found


def require_calibration(model: Model, file: Path | None) -> Calibration:
    """Return the calibration of a model: that in `file`, or the kept one. Raises: ConfigError when there is none."""
    exit_stages(model)
    key = "exit calibration" if file is None else f"exit calibration {file}"
    found = model.shared.get(key, lambda: _calibration(model, file))
    assert isinstance(found, Calibration)
    return found


def _calibration(model: Model, file: Path | None) -> Calibration:
    note = exits_note(model.manifest)
    calibration = note.kept(model.profiles) if file is None else note.read(file)
    if calibration is None:
        raise ConfigError(f"the exits of this bundle are not calibrated; run {COMMAND} once")
    return require_same_exits(calibration, model.manifest, str(file or "the kept calibration"))


def open_policy(
    model: Model, min_agreement: float, *, calibration: Path | None = None, min_gain: float = MIN_GAIN
) -> tuple[ExitPolicy, str]:
    """Return the policy for one text, and what it promises in words.

    Raises: ConfigError when the bundle has no exits, or they are not calibrated while tokens may differ.
    """
    require_agreement(min_agreement)
    exit_stages(model)
    num_layers = model.manifest.dimensions.num_layers
    if min_agreement == 1:
        return ExitPolicy([], None, num_layers=num_layers), "all tokens as the full model's: no exit is used"
    known = require_calibration(model, calibration)
    exits = exits_for(model, known, min_agreement)
    promise = f"{100 * min_agreement:g} % of tokens as the full model's, calibrated on {known.num_tokens} tokens"
    if not exits:
        return ExitPolicy([], None, num_layers=num_layers), f"{promise}; no exit keeps that, so none is used"
    return ExitPolicy(exits, exit_times(model), num_layers=num_layers, min_gain=min_gain), promise


class ExitText:
    """The target's own text as an exit sees it: what a draft model's `Follower` is, without a second model.

    It may be no exit: `then` are later stages that go on behind the first ones, those between left out. `guess_s` is
    the usual time of the calls of a guess, 0 before the first.
    """

    def __init__(self, sequence: Sequence, num_stages: int, then: tuple[int, ...] = ()) -> None:
        self._sequence, self._num_stages, self._then = sequence, num_stages, then
        self.token_ids: list[int] = []
        self.guess_s = 0.0

    def follow(self, history: SequenceOf[int]) -> int:
        """Take over the text; return how many guesses fit behind it. Cost: a copy of the text."""
        if self._sequence.num_waiting != 1 or self._sequence.is_stale:
            return 0
        self.token_ids = [*history]
        return self._sequence.draft_room

    def logits(self) -> NDArray[np.float32]:
        """Feed the last token to the stages; return the exit's logits [1, V], valid until the next call."""
        start = perf_counter()
        waiting = self.token_ids[self._sequence.num_cached :]
        logits = self._sequence.peek(waiting, num_stages=self._num_stages, then=self._then, drafting=True)
        self.guess_s = usual_s(self.guess_s, perf_counter() - start)
        return logits[None]

    def take(self, token_id: int) -> None:
        """Put a token behind the last one, whose logits were asked for."""
        self.token_ids.append(token_id)
