"""Layers to leave out of drafts, as files beside the profiles in the user's cache folder.

They belong to weights and their precision, not to a device, nor to where a bundle of these weights is cut.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, keep_json
from skipstone.runtime.methods.depth.skip_set import SkipSet

__all__ = ["COMMAND", "read_skip_set", "save_skip_set", "skip_path", "skipped_stages"]

FORMAT_VERSION = 1
COMMAND = "`skipstone tune BUNDLE --skip --text FILE`"


def skip_path(manifest: Manifest, folder: Path) -> Path:
    """Return the file in `folder` for a bundle's layers to leave out, named by its weights and recipe."""
    parts = (manifest.files["weights.bin"].sha256, manifest.recipe)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"skip-{key}.json"


def save_skip_set(found: SkipSet, path: Path) -> bool:
    """Write a set for later processes; return whether it could be written."""
    return keep_json({"format_version": FORMAT_VERSION, **asdict(found)}, path)


def read_skip_set(path: Path, manifest: Manifest) -> SkipSet:
    """Return the set in a file. Raises: ConfigError when it is none, or was made for other weights."""
    try:
        found = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; make it with {COMMAND}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds no layers to leave out; make it again with {COMMAND}") from error
    wanted = manifest.files["weights.bin"].sha256
    if found.weights != wanted:
        raise ConfigError(
            f"{path} was made for weights {found.weights[:12]}, the bundle has {wanted[:12]}; make it with {COMMAND}"
        )
    last = manifest.dimensions.num_layers - 1
    if not found.layers or not 0 < found.layers[0] <= found.layers[-1] < last:
        raise ConfigError(f"{path} leaves out layers {[*found.layers]}, of 1 to {last - 1}; make it with {COMMAND}")
    return found


def _from_json(data: Any) -> SkipSet:
    if data["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}, found {data['format_version']}")
    return SkipSet(
        weights=str(data["weights"]),
        num_tokens=int(data["num_tokens"]),
        layers=tuple(sorted({int(layer) for layer in data["layers"]})),
        agreement=float(data["agreement"]),
        guess_cost=float(data["guess_cost"]),
        speed_up=float(data["speed_up"]),
        length=int(data["length"]),
    )


def skipped_stages(manifest: Manifest, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stages of a bundle that hold just these layers.

    Raises: ConfigError with the cuts to export with when stages hold others too.
    """
    inside = [{*range(stage.first_layer, stage.end_layer)} <= {*layers} for stage in manifest.stages]
    found = tuple(number for number, is_inside in enumerate(inside) if is_inside)
    held = sum(manifest.stages[number].end_layer - manifest.stages[number].first_layer for number in found)
    if held == len(layers):
        return found
    num_layers = manifest.dimensions.num_layers
    cuts = [border for border in range(1, num_layers) if (border in layers) != (border - 1 in layers)]
    raise ConfigError(
        f"the layers to leave out, {', '.join(map(str, layers))} from 0, are not whole stages of this bundle; make one "
        f"with `skipstone export CHECKPOINT -o OUT --cuts {','.join(map(str, cuts))}`, or search with {COMMAND}"
    )
