"""What leaving early costs in quality and brings in speed, at several settings of its dial. Approximate decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate.log_probs import log_softmax
from skipstone.evaluate.play import Played, play
from skipstone.option_types import checks_arguments
from skipstone.runtime.costs import ExitTimes, exit_times
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import (
    AtDepth,
    GatedExit,
    at_depths,
    decode_early,
    open_policy,
    text_windows,
)
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.text import first_tokens

__all__ = ["SETTINGS", "ExitQuality", "evaluate_exits"]

SETTINGS = (1.0, 0.99, 0.98, 0.95, 0.9)
PROMPT_TOKENS = 64
NEW_TOKENS = 64
MOST_PROMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitQuality:
    """One setting of approximate decoding. None as `exit_layers` is that no exit keeps the agreement: plain decoding.

    Along `num_tokens` of the given text: `agreement` is the share that are the full model's choice, `kl` is
    KL(full || used) in nats per token, `early` the share that leaves. Of greedy texts of 64 tokens: `exact_match` is
    the share that are plain decoding's; `times_plain` is their speed over its, `expected_times_plain` what the share
    that leaves and the measured calls promise.
    """

    min_agreement: float
    num_tokens: int
    exit_layers: int | None
    early: float
    agreement: float
    kl: float
    exact_match: float
    tokens_per_s: float
    times_plain: float
    expected_times_plain: float


@checks_arguments
def evaluate_exits(
    model: Model,
    texts: SequenceOf[str],
    *,
    settings: SequenceOf[float] = SETTINGS,
    calibration: Path | None = None,
    max_tokens: int | None = None,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> list[ExitQuality]:
    """Return quality and speed for each agreement asked for, on at most `max_tokens` of texts.

    An exit is used even where it does not pay, so that its quality is seen. `on_progress` gets the tokens judged.
    Raises: ConfigError when the bundle has no exits or no calibration, or the texts are too short.
    """
    policies = [open_policy(model, setting, calibration=calibration, min_gain=0.0)[0] for setting in settings]
    windows = [*first_tokens(text_windows(model, texts), max_tokens)]
    prompts = [window[:PROMPT_TOKENS] for window in windows if len(window) >= PROMPT_TOKENS][:MOST_PROMPTS]
    if not prompts or model.manifest.context_length < PROMPT_TOKENS + NEW_TOKENS:
        raise ConfigError(f"a text and a context of at least {PROMPT_TOKENS + NEW_TOKENS} tokens are wanted; give more")
    judged = [_Judged(policy.choose()) for policy in policies]
    for window in windows:
        for piece in at_depths(model, window):
            full = log_softmax(piece[max(piece)].logits)
            for tally in judged:
                tally.add(full, piece)
            on_progress(len(full))
    writers = [partial(_steps, model, setting, calibration) for setting in (1.0, *settings)]
    plain, *played = play(writers, prompts, from_first_token=True)
    times = exit_times(model)
    return [
        tally.quality(setting, text, plain, times)
        for setting, tally, text in zip(settings, judged, played, strict=True)
    ]


@dataclass(slots=True)
class _Judged:
    """Sums over the tokens of a given text at one setting."""

    exit: GatedExit | None
    count: int = 0
    early: int = 0
    agreeing: int = 0
    nats: float = 0.0

    def add(self, full: NDArray[np.float64], piece: Mapping[int, AtDepth]) -> None:
        """Count a piece: `full` are log-probabilities [T, V] of the full model, `piece` is what each depth makes."""
        self.count += len(full)
        if self.exit is None:
            self.agreeing += len(full)
            return
        judge, at = self.exit.judge, piece[self.exit.num_layers]
        left, logits = judge.are_sure(at.shown(judge.metric)), at.logits
        self.early += int(left.sum())
        self.agreeing += int((~left | (logits.argmax(axis=1) == full.argmax(axis=1))).sum())
        if left.any():
            expected = full[left]
            self.nats += float((np.exp(expected) * (expected - log_softmax(logits[left]))).sum())

    def quality(self, setting: float, played: Played, plain: Played, times: ExitTimes) -> ExitQuality:
        """Return the figures, with those of the texts that were made."""
        exit, early = self.exit, self.early / self.count
        rate = None if exit is None else times.rate(exit.num_layers, early, reads_states=exit.judge.reads_states)
        return ExitQuality(
            min_agreement=setting,
            num_tokens=self.count,
            exit_layers=None if exit is None else exit.num_layers,
            early=early,
            agreement=self.agreeing / self.count,
            kl=self.nats / self.count,
            exact_match=played.exact_match(plain),
            tokens_per_s=played.tokens_per_s,
            times_plain=played.tokens_per_s / plain.tokens_per_s,
            expected_times_plain=1.0 if rate is None else rate * times.full_s,
        )


def _steps(model: Model, setting: float, calibration: Path | None, prompt: SequenceOf[int]) -> Iterator[Step]:
    """Return the loop over one greedy text; stop tokens are ignored, so that all texts are equally long."""
    policy, _ = open_policy(model, setting, calibration=calibration, min_gain=0.0)
    sequence = model.new_sequence(context_length=PROMPT_TOKENS + NEW_TOKENS)
    sequence.append(prompt)
    choose = Sampler(greedy=True).choose
    return decode_early(sequence, policy=policy, choose=choose, max_new_tokens=NEW_TOKENS, stop_ids=())
