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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, Note
from skipstone.runtime.engine import Model, exit_stages
from skipstone.runtime.methods.calibration import ERROR_RATE, risk_p_value
from skipstone.runtime.methods.depth.at_depths import at_depths, text_windows
from skipstone.runtime.methods.method import AGREEMENTS
from skipstone.runtime.sampling import SATURATION, confidence_named
from skipstone.runtime.text import LEAST_TOKENS

__all__ = [
    "COMMAND",
    "ExitLevels",
    "ExitThresholds",
    "Level",
    "calibrate",
    "exit_levels",
    "exits_note",
    "lowest_threshold",
    "require_same_exits",
]

# Thresholds that are tested: those that let so many shares of the text's tokens leave.
NUM_THRESHOLDS = 128
COMMAND = "`skipstone tune exits BUNDLE --text FILE`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """From which confidence an exit keeps an agreement: `threshold` of a measure, and the `share` that leaves above it.

    None as `threshold` is never: no threshold keeps the agreement, as far as the text could show.
    """

    agreement: float
    metric: str
    threshold: float | None
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitLevels:
    """The exit after `num_layers` layers: how often it agrees when it makes every token, and its levels.

    `last_stage_from` is the layer with which its last stage begins, and around which saturation is measured; None where
    nobody noted it.
    """

    num_layers: int
    agreement: float
    levels: tuple[Level, ...]
    last_stage_from: int | None = None

    def level(self, min_agreement: float) -> Level | None:
        """Return the loosest level that keeps `min_agreement`; None where none does."""
        fit = [one for one in self.levels if one.agreement >= min_agreement - 1e-9 and one.threshold is not None]
        return min(fit, key=lambda one: one.agreement, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitThresholds:
    """What is known of the exits of one bundle."""

    num_tokens: int
    error_rate: float
    exits: tuple[ExitLevels, ...]

    def __post_init__(self) -> None:
        if not 0 < self.error_rate < 1:
            raise ConfigError(f"error_rate must lie between 0 and 1, got {self.error_rate}")


def exits_note(manifest: Manifest) -> Note[ExitThresholds]:
    """Return the note of a bundle's calibration; it belongs to weights and their precision, not to a device."""
    weights = manifest.files["weights.bin"].sha256
    return Note(
        finding=ExitThresholds,
        name="exits",
        what="calibration of exits",
        command=COMMAND,
        made_for={"recipe": manifest.recipe, "weights": weights},
        key=(weights, manifest.recipe, manifest.exits),
    )


def require_same_exits(calibration: ExitThresholds, manifest: Manifest, where: str) -> ExitThresholds:
    """Return a calibration from the file `where` if it knows exits of a bundle, measured around the stages they end.

    Raises: ConfigError for one of other exits, or where saturation was measured around another stage.
    """
    if not {exit.num_layers for exit in calibration.exits} & {*manifest.exits}:
        known = ", ".join(str(exit.num_layers) for exit in calibration.exits)
        raise ConfigError(f"{where} knows exits after {known} layers, the bundle has others; make one with {COMMAND}")
    starts = {stage.end_layer: stage.first_layer for stage in manifest.stages if stage.end_layer in manifest.exits}
    for exit in calibration.exits:
        start, measured = starts.get(exit.num_layers), {level.metric for level in exit.levels}
        if start is not None and start != exit.last_stage_from and SATURATION in measured:
            raise ConfigError(
                f"{where} was made for a stage from layer {exit.last_stage_from} to the exit after {exit.num_layers}, "
                f"the bundle has one from layer {start}; make one for this bundle with {COMMAND}"
            )
    return calibration


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
    confidences: dict[int, dict[str, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    agrees: dict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    for window in windows:
        for found in at_depths(model, window):
            wanted = found[max(found)].logits.argmax(axis=1)
            for num_layers in exits:
                at = found[num_layers]
                agrees[num_layers].append(at.logits.argmax(axis=1) == wanted)
                for metric in at.metrics:
                    confidences[num_layers][metric].append(confidence_named(metric)(at.shown(metric)))
            on_progress(len(wanted))
    return ExitThresholds(
        num_tokens=num_tokens,
        error_rate=error_rate,
        exits=tuple(
            exit_levels(
                num_layers,
                {metric: np.concatenate(pieces) for metric, pieces in confidences[num_layers].items()},
                np.concatenate(agrees[num_layers]),
                error_rate=error_rate / len(exits),
                last_stage_from=model.manifest.stages[num_stages - 1].first_layer,
            )
            for num_layers, num_stages in exits.items()
        ),
    )
