"""What a calibration says of the exits of a bundle: from which confidence each keeps an agreement; and its note."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, Note
from skipstone.runtime.sampling import SATURATION

__all__ = ["COMMAND", "ExitLevels", "ExitThresholds", "Level", "exits_note", "require_same_exits"]

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
