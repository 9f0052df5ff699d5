"""A token leaves at an exit where that is sure of it, by a calibrated threshold. Approximate: such a token is final.

Sources: FREE (Bae et al., 2023) for late stages that catch up with exact caches; CALM (Schuster et al., 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.costs import MIN_GAIN, MOST_BEHIND, ExitTimes, Plan, exit_times
from skipstone.runtime.decoding import Choose, Step, decode_singly
from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages
from skipstone.runtime.methods.depth.exits import NO_EXIT_PAYS, PRIOR_TOKENS, TRY_AGAIN, Counts, Exit, best_exit
from skipstone.runtime.methods.depth.thresholds import COMMAND, ExitThresholds, exits_note, require_same_exits
from skipstone.runtime.methods.method import EXITS, ApproximateContext, Dial, Method, Opened, require_agreement
from skipstone.runtime.sampling import SATURATION, confidence_named

__all__ = [
    "METHOD",
    "ExitPolicy",
    "Gate",
    "GatedExit",
    "decode_early",
    "exits_for",
    "open_exit",
    "open_policy",
    "require_calibration",
]

# A token counts half as much after some 90 more.
MEMORY = 1 - 1 / 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Lets tokens leave where the measure `metric` is above `threshold`; a `share` of them was in calibration."""

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


GatedExit: TypeAlias = Exit[None, Gate]


class ExitPolicy:
    """Chooses, for one text, the exit that promises the most tokens per second, or none where none pays.

    How many tokens leave is learned as the text goes on. The times are fixed, so the same files give the same text.
    """

    def __init__(
        self, exits: SequenceOf[GatedExit], times: ExitTimes | None, *, num_layers: int, min_gain: float = MIN_GAIN
    ) -> None:
        """`times` None: the first exit, if any, is always used. `num_layers` is the full depth."""
        self._exits, self._times, self.num_layers, self._min_gain = exits, times, num_layers, min_gain
        self._num_plain = 0
        for exit in exits:
            num_sure = exit.judge.share * PRIOR_TOKENS
            exit.counts = Counts(num_sure, PRIOR_TOKENS - num_sure)

    def choose(self) -> GatedExit | None:
        """Return the exit for the tokens up to the next call of all stages; None is a plain call."""
        if not self._exits:
            return None
        if self._times is None:
            return self._exits[0]
        best, plan = best_exit(self._exits, self.plan)
        if plan.rate * self._times.full_s >= self._min_gain:
            return best
        self._num_plain += 1
        return best if self._num_plain % TRY_AGAIN == 0 else None

    @property
    def pays(self) -> bool:
        """Whether an exit promises enough now, or none is there that could."""
        if self._times is None or not self._exits:
            return True
        return best_exit(self._exits, self.plan)[1].rate * self._times.full_s >= self._min_gain

    def plan(self, exit: GatedExit) -> Plan:
        """Return what an exit promises, by what left so far."""
        if self._times is None:
            return Plan(MOST_BEHIND, 0.0)
        rate = self._times.rate(exit.num_layers, exit.counts.share, reads_states=exit.judge.reads_states)
        return Plan(MOST_BEHIND, rate)

    def is_sure(self, exit: GatedExit, shown: NDArray[np.float32]) -> bool:
        """Return whether the exit's next token is believed, by its logits [V] or hidden states [2, E]; learn it."""
        sure = bool(exit.judge.are_sure(shown[None])[0])
        exit.counts.fade(MEMORY)
        exit.counts.add(hits=sure, misses=not sure)
        return sure


def exits_for(model: Model, thresholds: ExitThresholds, min_agreement: float) -> list[GatedExit]:
    """Return the exits at which tokens may leave when `min_agreement` of all are to be the full model's choice."""
    stages, exits = exit_stages(model), []
    for levels in thresholds.exits:
        level = levels.level(min_agreement)
        if levels.num_layers in stages and level is not None and level.threshold is not None:
            gate = Gate(metric=level.metric, threshold=level.threshold, share=level.share)
            exits.append(
                Exit(
                    num_layers=levels.num_layers,
                    num_stages=stages[levels.num_layers],
                    share=levels.num_layers / model.manifest.dimensions.num_layers,
                    text=None,
                    judge=gate,
                )
            )
    return exits


def require_calibration(model: Model, file: Path | None) -> ExitThresholds:
    """Return the calibration of a model: that in `file`, or the kept one. Raises: ConfigError when there is none."""
    exit_stages(model)
    key = "exit calibration" if file is None else f"exit calibration {file}"
    found = model.shared.get(key, lambda: _calibration(model, file))
    assert isinstance(found, ExitThresholds)
    return found


def _calibration(model: Model, file: Path | None) -> ExitThresholds:
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


def open_exit(context: ApproximateContext) -> Opened:
    """Open a text by calibrated exits; the dial is the agreement. Raises: ConfigError without exits or calibration."""
    min_gain = 0.0 if context.forced else MIN_GAIN
    policy, promise = open_policy(context.model, context.setting, calibration=context.calibration, min_gain=min_gain)
    steps = decode_early(
        context.sequence,
        policy=policy,
        choose=context.sampler.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    return Opened(steps=steps, promise=promise, note="" if policy.pays else NO_EXIT_PAYS)


def decode_early(
    sequence: Sequence, *, policy: ExitPolicy, choose: Choose, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; each step says which depth made it.

    Where the exit is sure, the later stages fall behind, by at most 16 tokens. Otherwise one call of theirs catches up,
    so that their caches hold what a fresh prefill of the emitted tokens gives, and the full model's token is taken.
    Invariant: as in `decode`; the tokens behind wait in the sequence, also after the last step.
    Raises: CacheFull when prompt and answer do not fit.
    """
    chosen: GatedExit | None = None

    def look() -> tuple[NDArray[np.float32], int]:
        nonlocal chosen
        if sequence.num_waiting == 1:  # tokens that fell behind at one exit go on from there
            chosen = policy.choose() if sequence.num_cached else None
        logits = None if chosen is None else _early_logits(sequence, policy, chosen)
        if chosen is not None and logits is not None:
            return logits, chosen.num_layers
        return sequence.extend(Draft.empty())[0], policy.num_layers

    return decode_singly(sequence, look=look, choose=choose, max_new_tokens=max_new_tokens, stop_ids=stop_ids)


def _early_logits(sequence: Sequence, policy: ExitPolicy, exit: GatedExit) -> NDArray[np.float32] | None:
    """Return the exit's logits [V] for the next token; None where it is unsure, or the later stages must catch up."""
    if sequence.num_waiting > MOST_BEHIND or sequence.is_stale:
        return None
    waiting, states = sequence.token_ids[sequence.num_cached :], exit.judge.reads_states
    shown = (sequence.peek_hidden if states else sequence.peek)(waiting, num_stages=exit.num_stages)
    if not policy.is_sure(exit, shown):
        return None
    return sequence.peek_logits() if states else shown


METHOD = Method(
    name="exit",
    needs=(EXITS,),
    writes=open_exit,
    dial=Dial(
        unit="the share of tokens as the full model's",
        least=0.8,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.99, 0.98, 0.95, 0.9),
        is_agreement=True,
    ),
)
