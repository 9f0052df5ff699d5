"""Calibrations as files: beside the profiles in the user's cache folder, or wherever the user keeps one.

A calibration belongs to weights and their precision, not to a device.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, keep_json
from skipstone.runtime.methods.depth.calibrate import Calibration, ExitLevels, Level
from skipstone.runtime.sampling import SATURATION

__all__ = ["calibration_path", "find_calibration", "read_calibration", "save_calibration"]

FORMAT_VERSION = 1
COMMAND = "`skipstone tune BUNDLE --exits --text FILE`"


def calibration_path(manifest: Manifest, folder: Path) -> Path:
    """Return the file in `folder` for a bundle's calibration, named by its weights, recipe and exits."""
    parts = (manifest.files["weights.bin"].sha256, manifest.recipe, manifest.exits)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"exits-{key}.json"


def save_calibration(calibration: Calibration, path: Path) -> bool:
    """Write a calibration for later processes; return whether it could be written."""
    return keep_json({"format_version": FORMAT_VERSION, **asdict(calibration)}, path)


def find_calibration(manifest: Manifest, folder: Path | None) -> Calibration | None:
    """Return the calibration that `folder` keeps for a bundle; None where there is none that can be read."""
    if folder is None or not manifest.exits:
        return None
    try:
        return read_calibration(calibration_path(manifest, folder), manifest)
    except ConfigError:
        return None


def read_calibration(path: Path, manifest: Manifest) -> Calibration:
    """Return the calibration in a file. Raises: ConfigError when it is none, or was made for another bundle."""
    try:
        found = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; make a calibration with {COMMAND}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no calibration of this version; make one with {COMMAND}") from error
    wanted = manifest.files["weights.bin"].sha256
    if found.recipe != manifest.recipe:
        was, now = found.recipe.get("name"), manifest.recipe.get("name")
        how = f"precision {was}, the bundle has {now}" if was != now else f"another recipe of precision {now}"
        raise ConfigError(f"{path} was made for {how}; make one for this bundle with {COMMAND}")
    if found.weights != wanted:
        raise ConfigError(
            f"{path} was made for weights {found.weights[:12]}, the bundle has {wanted[:12]}; "
            f"make one for this bundle with {COMMAND}"
        )
    if not {one.num_layers for one in found.exits} & {*manifest.exits}:
        known = ", ".join(str(one.num_layers) for one in found.exits)
        raise ConfigError(f"{path} knows exits after {known} layers, the bundle has others; make one with {COMMAND}")
    _require_same_cuts(found, manifest, path)
    return found


def _require_same_cuts(found: Calibration, manifest: Manifest, path: Path) -> None:
    """Raise ConfigError where the last stage before an exit, around which saturation is measured, is another."""
    starts = {stage.end_layer: stage.first_layer for stage in manifest.stages if stage.end_layer in manifest.exits}
    for one in found.exits:
        start = starts.get(one.num_layers)
        if start is not None and start != one.last_stage_from and SATURATION in {level.metric for level in one.levels}:
            raise ConfigError(
                f"{path} was made for a stage from layer {one.last_stage_from} to the exit after {one.num_layers}, "
                f"the bundle has one from layer {start}; make one for this bundle with {COMMAND}"
            )


def _from_json(data: Any) -> Calibration:
    if data["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}, found {data['format_version']}")
    return Calibration(
        weights=str(data["weights"]),
        recipe=dict(data["recipe"]),
        num_tokens=int(data["num_tokens"]),
        error_rate=float(data["error_rate"]),
        exits=tuple(
            ExitLevels(
                num_layers=int(one["num_layers"]),
                agreement=float(one["agreement"]),
                levels=tuple(_level(level) for level in one["levels"]),
                last_stage_from=None if one.get("last_stage_from") is None else int(one["last_stage_from"]),
            )
            for one in data["exits"]
        ),
    )


def _level(data: Any) -> Level:
    threshold = data["threshold"]
    return Level(
        agreement=float(data["agreement"]),
        metric=str(data["metric"]),
        threshold=None if threshold is None else float(threshold),
        share=float(data["share"]),
    )
