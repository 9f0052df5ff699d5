"""What leaving early costs in quality and brings in speed, at several settings of its dial. Approximate decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate.perplexity import log_softmax
from skipstone.runtime.costs import exit_times
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import (
    AtDepth,
    ExitPolicy,
    GatedExit,
    at_depths,
    decode_early,
    open_policy,
    text_windows,
)
from skipstone.runtime.sampling import Sampler

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
    policies = [open_policy(model, one, calibration=calibration, min_gain=0.0)[0] for one in settings]
    windows = _limited(text_windows(model, texts), max_tokens)
    prompts = [window[:PROMPT_TOKENS] for window in windows if len(window) >= PROMPT_TOKENS][:MOST_PROMPTS]
    if not prompts or model.manifest.context_length < PROMPT_TOKENS + NEW_TOKENS:
        raise ConfigError(f"a text and a context of at least {PROMPT_TOKENS + NEW_TOKENS} tokens are wanted; give more")
    exits = [policy.choose() for policy in policies]
    judged = [_Judged() for _ in settings]
    for window in windows:
        for found in at_depths(model, window):
            full = log_softmax(found[max(found)].logits)
            for one, tally in zip(exits, judged, strict=True):
                tally.add(full, None if one is None else found[one.num_layers], one)
            on_progress(len(full))
    played = _play(model, prompts, settings, calibration)
    times = exit_times(model)
    return [
        ExitQuality(
            min_agreement=setting,
            num_tokens=tally.count,
            exit_layers=None if one is None else one.num_layers,
            early=tally.early / tally.count,
            agreement=tally.agreeing / tally.count,
            kl=tally.nats / tally.count,
            exact_match=text.num_exact / len(prompts),
            tokens_per_s=text.tokens_per_s,
            times_plain=text.tokens_per_s / played[0].tokens_per_s,
            expected_times_plain=1.0
            if one is None
            else times.rate(one.num_layers, tally.early / tally.count, reads_states=one.judge.reads_states)
            * times.full_s,
        )
        for setting, one, tally, text in zip(settings, exits, judged, played[1:], strict=True)
    ]


def _limited(windows: list[list[int]], max_tokens: int | None) -> list[list[int]]:
    """Return the first windows that hold `max_tokens` together, the last one cut."""
    kept, left = [], max_tokens
    for window in windows:
        kept.append(window[:left])
        left = None if left is None else left - len(kept[-1])
        if left == 0:
            break
    return kept


@dataclass(slots=True)
class _Judged:
    """Sums over the tokens of a given text at one setting."""

    count: int = 0
    early: int = 0
    agreeing: int = 0
    nats: float = 0.0

    def add(self, full: NDArray[np.float64], at: AtDepth | None, used: GatedExit | None) -> None:
        """Count a piece: `full` are log-probabilities [T, V] of the full model, `at` is what the exit makes of it."""
        self.count += len(full)
        if used is None or at is None:
            self.agreeing += len(full)
            return
        left, logits = used.judge.are_sure(at.shown(used.judge.metric)), at.logits
        self.early += int(left.sum())
        self.agreeing += int((~left | (logits.argmax(axis=1) == full.argmax(axis=1))).sum())
        if left.any():
            wanted = full[left]
            self.nats += float((np.exp(wanted) * (wanted - log_softmax(logits[left]))).sum())


@dataclass(slots=True)
class _Played:
    """Greedy texts of one setting: those that equal plain decoding's, and their time from the first token on."""

    texts: list[list[int]] = field(default_factory=list)
    num_exact: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    def add(self, steps: Iterator[Step]) -> None:
        text = [*next(steps).token_ids]
        start = perf_counter()
        for step in steps:
            text += step.token_ids
        self.seconds += perf_counter() - start
        self.num_tokens += len(text) - 1
        self.texts.append(text)


def _play(
    model: Model, prompts: SequenceOf[SequenceOf[int]], settings: SequenceOf[float], calibration: Path | None
) -> list[_Played]:
    """Return the greedy texts of plain decoding, then of each setting, made in turn for each prompt.

    Those of the first prompt are made once before, uncounted: calls are bound when they first run.
    """
    warm, played = ([_Played() for _ in (1.0, *settings)] for _ in range(2))
    for prompt, kept in ((prompts[0], warm), *((prompt, played) for prompt in prompts)):
        for setting, one in zip((1.0, *settings), kept, strict=True):
            policy = open_policy(model, setting, calibration=calibration, min_gain=0.0)[0]
            one.add(_steps(model, prompt, policy))
            one.num_exact += one.texts[-1] == kept[0].texts[-1]
    return played


def _steps(model: Model, prompt: SequenceOf[int], policy: ExitPolicy) -> Iterator[Step]:
    """Return the loop over one greedy text; stop tokens are ignored, so that all texts are equally long."""
    sequence = model.new_sequence(context_length=PROMPT_TOKENS + NEW_TOKENS)
    sequence.append(prompt)
    choose = Sampler(greedy=True).choose
    return decode_early(sequence, policy=policy, choose=choose, max_new_tokens=NEW_TOKENS, stop_ids=())
