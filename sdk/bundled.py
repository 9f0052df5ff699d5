"""The models that come with the package, and the bundles made of them on first use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from skipstone.errors import BundleError, OutputError
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle, Manifest

__all__ = ["BUNDLED", "CALIBRATION_TEXT", "bundled_bundle", "cache_folder", "checkpoint_told", "notes_folder"]

_HERE = Path(__file__).parent / "models"
BUNDLED: Mapping[str, Path] = {name: _HERE / name for name in ("pebble", "pebble-mini")}
"""Name to checkpoint folder."""
DRAFTERS: Mapping[str, str] = {"pebble": "pebble-mini"}
"""Name of a bundled model to the one that its bundle carries as drafter."""
CALIBRATION_TEXT: Final = Path(__file__).parent / "texts" / "calibration.jsonl"
"""Texts and chats to calibrate with, a document a line: {"text": ...} or {"messages": [{"role", "content"}, ...]}."""


def cache_folder() -> Path:
    """Return the folder for what can be made again: $SKIPSTONE_CACHE, or skipstone in the user's cache folder."""
    if stated := os.environ.get("SKIPSTONE_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skipstone"


def notes_folder() -> Path:
    """Return the folder for all that is found out about bundles: measurements, calibrations, layers to leave out."""
    return cache_folder() / "profiles"


def checkpoint_told(manifest: Manifest) -> str:
    """Return what a bundle was exported from, as `skipstone export` takes it: a bundled model by its name."""
    made = manifest.provenance
    names = (name for name, folder in BUNDLED.items() if made.source == str(folder) or made.command == f"load {name}")
    return next(names, made.source)


def bundled_bundle(name: str) -> Path:
    """Return the folder of a bundled model's int4 bundle, exporting it if this version has not done so yet.

    That of pebble carries pebble-mini as drafter. Their caches hold integers, over which drafts are verified to the bit
    in texts of any length.
    """
    recipe, drafter = Recipe.named("int4"), DRAFTERS.get(name)
    key = hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode())
    key.update(b"int8 cache")
    for model in (name,) if drafter is None else (name, drafter):
        key.update((BUNDLED[model] / "model.safetensors").read_bytes())
    path = cache_folder() / f"{name}-{version('skipstone')}-{key.hexdigest()[:12]}"
    try:
        Bundle.open(path)
    except BundleError:
        from skipstone.calibrate import AUTO, CacheScalesOfText, Documents
        from skipstone.exporters import ExportOptions, plan_export, with_draft_model

        try:
            options = ExportOptions(recipe=recipe)
            plan = plan_export(BUNDLED[name], options)
            if drafter is not None:
                plan = with_draft_model(plan, plan_export(BUNDLED[drafter], options))
            plan = plan.with_int8_cache(CacheScalesOfText(Documents.read(AUTO)))
            plan.write(path, force=True, command=f"load {name}")
        except OutputError as error:
            raise OutputError(f"{error}; SKIPSTONE_CACHE sets the folder") from error
    return path
