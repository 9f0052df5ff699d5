"""How far the dial of a method may be turned on this bundle: what was found on texts once, kept as a file.

Settings are tested from the strictest on, until one fails: Learn-then-Test (Angelopoulos et al., 2021) with
fixed-sequence testing, as for exits. With probability 1 - error_rate over texts of the same kind, the setting in use
keeps its agreement. Wrong tokens come together, in some texts many and in most none, so fewer tokens are counted than
were written: by the design effect of texts as clusters (Kish, 1965; Rao and Scott, 1992).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, keep_json
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.method import ApproximateMethod

__all__ = [
    "ERROR_RATE",
    "DialCalibration",
    "DialFinding",
    "calibrated_setting",
    "dial_path",
    "made_for",
    "made_here",
    "read_dial",
    "risk_p_value",
    "save_dial",
]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class DialFinding:
    """One setting of a dial, and how many tokens written at it are not the full model's choice.

    `design_effect` is by how much their share varies more from text to text than if they came by chance.
    """

    setting: float
    num_wrong: int
    design_effect: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DialCalibration:
    """What was found of one method on one bundle, or pair of them; `bundle` tells which, see `made_for`.

    `tested` are settings from the strictest on, the plain end not among them; `num_tokens` were written at each.
    """

    method: str
    bundle: Mapping[str, Any]
    num_tokens: int
    error_rate: float
    tested: tuple[DialFinding, ...]

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


def calibrated_setting(
    model: Model, method: ApproximateMethod, min_agreement: float, *, file: Path | None = None
) -> tuple[float, str]:
    """Return the loosest setting that keeps `min_agreement`, and the promise in words; the plain end where none does.

    `file` replaces the calibration that is kept for the model. Raises: ConfigError when there is none for this bundle.
    """
    key = f"dial calibration of {method.name} {file or ''}"
    known = model.shared.get(key, lambda: _calibration(model, method, file))
    promise = f"{100 * min_agreement:.1f} % of tokens as the full model's, calibrated on {known.num_tokens} tokens"
    setting = known.loosest(min_agreement)
    if setting is None:
        return method.plain, f"{promise}; no setting of {method.name} keeps that, so {method.plain:g} is used: plain"
    return setting, f"{promise}; {method.name} at {setting:g} ({method.dial})"


def _calibration(model: Model, method: ApproximateMethod, file: Path | None) -> DialCalibration:
    here = made_here(model, method)
    if file is not None:
        return read_dial(file, here, method)
    path = None if model.profiles is None else dial_path(here, method, model.profiles)
    if path is None or not path.exists():
        pair = " and small model" if method.little else ""
        raise ConfigError(f"{method.name} is not calibrated for this bundle{pair}; run {_command(method)} once")
    return read_dial(path, here, method)


def made_here(model: Model, method: ApproximateMethod) -> dict[str, Any]:
    """Return what a calibration of a method on this model is made for. Raises: as opening the small model does."""
    little = model.draft_model if method.little else None
    return made_for(model.manifest, None if little is None else little.manifest)


def made_for(manifest: Manifest, little: Manifest | None) -> dict[str, Any]:
    """Return what tells bundles whose approximate texts may differ, as plain data; `little` is of those that use it.

    Weights and what stands before exits by sha256, the recipe, where stages end and exits are, the little weights.
    """
    parts = {
        "weights": manifest.files["weights.bin"].sha256,
        "recipe": manifest.recipe,
        "stages": [stage.end_layer for stage in manifest.stages],
        "exits": manifest.exits,
        "adapters": {depth: manifest.files[file].sha256 for depth, file in manifest.adapters.items()},
        "little_weights": None if little is None else little.files["weights.bin"].sha256,
    }
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    return plain


def dial_path(bundle: Mapping[str, Any], method: ApproximateMethod, folder: Path) -> Path:
    """Return the file in `folder` for a method's calibration on a bundle, told by what `made_for` gives."""
    key = hashlib.sha256(json.dumps(bundle, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"dial-{method.name}-{key}.json"


def save_dial(calibration: DialCalibration, path: Path) -> bool:
    """Write a calibration for later processes; return whether it could be written."""
    return keep_json({"format_version": FORMAT_VERSION, **asdict(calibration)}, path)


def read_dial(path: Path, bundle: Mapping[str, Any], method: ApproximateMethod) -> DialCalibration:
    """Return the calibration in a file. Raises: ConfigError when it is none, or of another method or bundle."""
    try:
        found = _from_json(json.loads(path.read_text(encoding="utf-8")), method)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; calibrate with {_command(method)}") from error
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no calibration of {method.name} of this version; make one with {_command(method)}"
        ) from error
    difference = _difference(found.bundle, bundle)
    if difference is not None:
        raise ConfigError(f"{path} was made for {difference}; make one for this bundle with {_command(method)}")
    return found


def _difference(made: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return in words what a calibration was made for, where that is not what the bundle is."""
    if made["recipe"] != here["recipe"]:
        was, now = made["recipe"].get("name"), here["recipe"].get("name")
        return f"precision {was}, the bundle has {now}" if was != now else f"another recipe of precision {now}"
    if made["weights"] != here["weights"]:
        return f"weights {made['weights'][:12]}, the bundle has {here['weights'][:12]}"
    if made["little_weights"] != here["little_weights"]:
        return "another small model than the bundle has"
    if made != here:
        return f"stages that end after {made['stages']} layers and exits {made['exits']}, the bundle has others"
    return None


def _from_json(data: Any, method: ApproximateMethod) -> DialCalibration:
    if (data["format_version"], data["method"]) != (FORMAT_VERSION, method.name):
        raise ValueError(f"wanted version {FORMAT_VERSION} of {method.name}")
    found = DialCalibration(
        method=method.name,
        bundle={
            "weights": str(data["bundle"]["weights"]),
            "recipe": dict(data["bundle"]["recipe"]),
            "stages": list(data["bundle"]["stages"]),
            "exits": list(data["bundle"]["exits"]),
            "adapters": dict(data["bundle"]["adapters"]),
            "little_weights": data["bundle"]["little_weights"],
        },
        num_tokens=int(data["num_tokens"]),
        error_rate=float(data["error_rate"]),
        tested=tuple(
            DialFinding(float(one["setting"]), int(one["num_wrong"]), float(one["design_effect"]))
            for one in data["tested"]
        ),
    )
    for one in found.tested:
        method.require(one.setting)
    counts = [one.num_wrong for one in found.tested]
    if not 0 < found.error_rate < 1 or any(not 0 <= count <= found.num_tokens for count in [0, *counts]):
        raise ValueError("an error rate lies between 0 and 1, and no more tokens are wrong than there are")
    if not all(0 <= one.design_effect <= found.num_tokens for one in found.tested):
        raise ValueError("texts cannot tell less than one token")
    return found


def _command(method: ApproximateMethod) -> str:
    return f"`skipstone tune BUNDLE --dial {method.name} --text FILE`"


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
