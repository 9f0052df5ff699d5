"""From what an exit said on a text to the confidence from which it may be believed, with a stated guarantee.

An exit at threshold t makes every token whose confidence is above t. Its risk is the share of all tokens that it makes
and the full model would have chosen otherwise; the agreement is 1 minus that. The risk only grows as t falls, so
thresholds are tested from the strictest on until one fails: Learn-then-Test (Angelopoulos et al., 2021) with
fixed-sequence testing. With probability 1 - error_rate over texts of the same kind, a threshold keeps its agreement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model, exit_stages
from skipstone.runtime.methods.calibration import ERROR_RATE, risk_p_value
from skipstone.runtime.methods.depth.at_depths import AtDepth, at_depths, text_windows
from skipstone.runtime.methods.depth.thresholds import ExitLevels, ExitThresholds, Level
from skipstone.runtime.methods.method import AGREEMENTS
from skipstone.runtime.sampling import confidence_named
from skipstone.runtime.text import LEAST_TOKENS

__all__ = ["calibrate", "exit_levels", "lowest_threshold"]

# Thresholds that are tested: those that let so many shares of the text's tokens leave.
NUM_THRESHOLDS = 128


def exit_levels(
    num_layers: int,
    confidences: Mapping[str, NDArray[np.float64]],
    agrees: NDArray[np.bool_],
    *,
    error_rate: float,
    last_stage_from: int | None = None,
) -> ExitLevels:
    """Return the levels of one exit, each with the measure that lets the most tokens leave.

    `confidences` [N] by measure and `agrees` [N] are of the same tokens. The measures share `error_rate`, since the
    best is chosen after the fact.
    """
    levels = []
    for agreement in AGREEMENTS:
        tested = {
            metric: lowest_threshold(values, agrees, min_agreement=agreement, error_rate=error_rate / len(confidences))
            for metric, values in confidences.items()
        }
        shares = {
            metric: 0.0 if threshold is None else float((confidences[metric] > threshold).mean())
            for metric, threshold in tested.items()
        }
        metric = max(shares, key=shares.__getitem__)
        levels.append(Level(agreement=agreement, metric=metric, threshold=tested[metric], share=shares[metric]))
    return ExitLevels(
        num_layers=num_layers,
        agreement=float(agrees.mean()),
        levels=tuple(levels),
        last_stage_from=last_stage_from,
    )


def lowest_threshold(
    confidence: NDArray[np.float64], agrees: NDArray[np.bool_], *, min_agreement: float, error_rate: float
) -> float | None:
    """Return the lowest threshold that keeps `min_agreement`, tested at `error_rate`; None where the first fails."""
    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = confidence[order], np.concatenate([[0], np.cumsum(~agrees[order])])
    found: float | None = None
    for step in range(1, NUM_THRESHOLDS):
        threshold = float(ranked[len(ranked) * step // NUM_THRESHOLDS])
        num_above = int(np.searchsorted(-ranked, -threshold, side="left"))
        if risk_p_value(int(wrong[num_above]), len(ranked), 1.0 - min_agreement) > error_rate:
            break
        if num_above:
            found = threshold
    return found


def calibrate(
    model: Model,
    texts: SequenceOf[str],
    *,
    error_rate: float = ERROR_RATE,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> ExitThresholds:
    """Return from which confidence each exit may be believed, judged by the full model's choices along `texts`.

    All exits and measures together miss a level with a chance of at most `error_rate`. `on_progress` gets the tokens of
    each piece. Raises: ConfigError when the bundle has no exits or the texts are too short.
    """
    exits, windows = exit_stages(model), text_windows(model, texts)
    num_tokens = sum(map(len, windows))
    if num_tokens < LEAST_TOKENS:
        raise ConfigError(
            f"the text has {num_tokens} tokens; a calibration wants at least {LEAST_TOKENS}, better 10,000 or more: "
            "give more or longer files"
        )
    judged = {num_layers: _Judged() for num_layers in exits}
    for window in windows:
        for piece in at_depths(model, window):
            choices = piece[max(piece)].logits.argmax(axis=1)
            for num_layers, exit in judged.items():
                exit.add(piece[num_layers], choices)
            on_progress(len(choices))
    return ExitThresholds(
        num_tokens=num_tokens,
        error_rate=error_rate,
        exits=tuple(
            exit_levels(
                num_layers,
                {metric: np.concatenate(values) for metric, values in judged[num_layers].confidences.items()},
                np.concatenate(judged[num_layers].agrees),
                error_rate=error_rate / len(exits),
                last_stage_from=model.manifest.stages[num_stages - 1].first_layer,
            )
            for num_layers, num_stages in exits.items()
        ),
    )


@dataclass(slots=True)
class _Judged:
    """What one exit said along a text, piece by piece: where it agrees, and its confidences by measure."""

    agrees: list[NDArray[np.bool_]] = field(default_factory=list)
    confidences: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, at: AtDepth, choices: NDArray[np.int64]) -> None:
        """Count a piece; `choices` [T] are the full model's tokens."""
        self.agrees.append(at.logits.argmax(axis=1) == choices)
        for metric in at.metrics:
            self.confidences[metric].append(confidence_named(metric)(at.shown(metric)))
