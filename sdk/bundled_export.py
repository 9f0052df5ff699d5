"""The bundles of the models that come with the package, made on first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from skipstone.bundled import BUNDLED, cache_folder
from skipstone.errors import BundleError, OutputError
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle

__all__ = ["bundled_bundle"]

DRAFTERS: Mapping[str, str] = {"pebble": "pebble-mini"}
"""Name of a bundled model to the one that its bundle carries as drafter."""


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
