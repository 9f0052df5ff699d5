"""How far the dial of a method may be turned on this bundle: what was found on texts once, kept as a file.

Settings are tested from the strictest on, until one fails: Learn-then-Test (Angelopoulos et al., 2021) with
fixed-sequence testing, as for exits. With probability 1 - error_rate over texts of the same kind, the setting in use
keeps its agreement. Wrong tokens come together, in some texts many and in most none, so fewer tokens are counted than
were written: by the design effect of texts as clusters (Kish, 1965; Rao and Scott, 1992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, Note
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.method import Method

__all__ = [
    "ERROR_RATE",
    "Calibration",
    "DialFinding",
    "calibrated_setting",
    "dial_note",
    "dial_note_of",
    "dial_setting",
    "risk_p_value",
]


@dataclass(frozen=True, slots=True)
class DialFinding:
    """One setting of a dial, and how many tokens written at it are not the full model's choice.

    `design_effect` is by how much their share varies more from text to text than if they came by chance.
    """

    setting: float
    num_wrong: int
    design_effect: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was found of one method on one bundle, or pair of them.

    `tested` are settings from the strictest on, the plain end not among them; `num_tokens` were written at each.
    Raises: ConfigError for numbers that cannot be.
    """

    method: str
    num_tokens: int
    error_rate: float
    tested: tuple[DialFinding, ...]

    def __post_init__(self) -> None:
        if not 0 < self.error_rate < 1:
            raise ConfigError(f"error_rate must lie between 0 and 1, got {self.error_rate}")
        for finding in self.tested:
            if not 0 <= finding.num_wrong <= self.num_tokens or not 0 <= finding.design_effect <= self.num_tokens:
                raise ConfigError(f"{finding} cannot be of {self.num_tokens} tokens")

    def loosest(self, min_agreement: float) -> float | None:
        """Return the loosest setting that keeps `min_agreement`; None where none of the tested does."""
        kept = [*takewhile(lambda one: self.keeps(one, min_agreement), self.tested)]
        return kept[-1].setting if kept else None

    @property
    def num_independent(self) -> int:
        """How many independent tokens would tell as much, by the largest design effect of all settings.

        That of one setting is not known well where few tokens are wrong, and not at all where none is.
        """
        return int(self.num_tokens / max([1.0, *(one.design_effect for one in self.tested)]))

    def keeps(self, one: DialFinding, min_agreement: float) -> bool:
        """Return whether the texts show that a setting keeps `min_agreement`, looked at alone."""
        num_wrong = math.ceil(one.num_wrong * self.num_independent / self.num_tokens)
        return risk_p_value(num_wrong, self.num_independent, 1.0 - min_agreement) <= self.error_rate


def dial_setting(
    model: Model, method: Method, min_agreement: float | None, dial: float | None, *, calibration: Path | None = None
) -> tuple[float, str]:
    """Return the setting of a method's dial, and what it promises; "" is what the method says itself.

    Raises: ConfigError when an agreement is asked for and no calibration knows what setting keeps it.
    """
    if dial is not None:
        return dial, ""
    assert min_agreement is not None, "require_setting has looked"
    if method.dial.is_agreement:
        return min_agreement, ""
    if min_agreement == 1:
        return method.dial.plain, "all tokens as the full model's"
    return calibrated_setting(model, method, min_agreement, file=calibration)


def calibrated_setting(
    model: Model, method: Method, min_agreement: float, *, file: Path | None = None
) -> tuple[float, str]:
    """Return the loosest setting that keeps `min_agreement`, and the promise in words; the plain end where none does.

    `file` replaces the calibration that is kept for the model. Raises: ConfigError when there is none for this bundle.
    """
    key = f"dial calibration of {method.name} {file or ''}"
    known = model.shared.get(key, lambda: _calibration(model, method, file))
    promise = f"{100 * min_agreement:.1f} % of tokens as the full model's, calibrated on {known.num_tokens} tokens"
    setting = known.loosest(min_agreement)
    if setting is None:
        return (
            method.dial.plain,
            f"{promise}; no setting of {method.name} keeps that, so {method.dial.plain:g} is used: plain",
        )
    return setting, f"{promise}; {method.name} at {setting:g} ({method.dial.unit})"


def _calibration(model: Model, method: Method, file: Path | None) -> Calibration:
    note = dial_note(model, method)
    calibration = note.kept(model.profiles) if file is None else note.read(file)
    if calibration is None:
        pair = " and small model" if method.uses_draft_model else ""
        raise ConfigError(f"{method.name} is not calibrated for this bundle{pair}; run {note.command} once")
    if calibration.method != method.name:
        raise ConfigError(f"{file} is a calibration of {calibration.method}; make one of {method.name}: {note.command}")
    for finding in calibration.tested:
        method.require(finding.setting)
    return calibration


def dial_note(model: Model, method: Method) -> Note[Calibration]:
    """Return the note of a method's calibration on this model. Raises: as opening the small model does."""
    draft_model = model.draft_model if method.uses_draft_model else None
    return dial_note_of(method, model.manifest, None if draft_model is None else draft_model.manifest)


def dial_note_of(method: Method, manifest: Manifest, draft_model: Manifest | None) -> Note[Calibration]:
    """Return the note of a method's calibration; `draft_model` is of those that use it.

    It depends on all that may change an approximate text: weights and what stands before exits by sha256, the recipe,
    where stages end and exits are, the draft model's weights.
    """
    made_for = {
        "recipe": manifest.recipe,
        "weights": manifest.files["weights.bin"].sha256,
        "little_weights": None if draft_model is None else draft_model.files["weights.bin"].sha256,
        "stages": [stage.end_layer for stage in manifest.stages],
        "exits": manifest.exits,
        "adapters": {depth: manifest.files[file].sha256 for depth, file in manifest.adapters.items()},
    }
    return Note(
        finding=Calibration,
        name=f"dial-{method.name}",
        what=f"calibration of {method.name}",
        command=f"`skipstone tune dial BUNDLE --decode {method.name} --text FILE`",
        made_for=made_for,
        key=made_for,
    )


ERROR_RATE = 0.05


def risk_p_value(num_wrong: int, count: int, max_risk: float) -> float:
    """Return the Hoeffding-Bentkus p-value of a true risk above `max_risk`, after `num_wrong` of `count` tokens.

    Source: Bates et al., 2021, section 3.1.
    """
    if max_risk <= 0 or num_wrong >= count * max_risk:
        return 1.0
    rate = num_wrong / count
    divergence = (1 - rate) * math.log((1 - rate) / (1 - max_risk))
    if rate:
        divergence += rate * math.log(rate / max_risk)
    return min(1.0, math.exp(-count * divergence), math.e * _binomial_tail(num_wrong, count, max_risk))


def _binomial_tail(most: int, count: int, chance: float) -> float:
    """Return the probability of at most `most` hits in `count` tries."""
    hits = np.arange(1, most + 1)
    steps = np.log((count - hits + 1) / hits) + math.log(chance) - math.log1p(-chance)
    logs = count * math.log1p(-chance) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(logs).sum())
