"""The bundles of the models that come with the package, made on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from skipstone.bundled import BUNDLED, cache_folder
from skipstone.by_name.turns import taking_turns
from skipstone.errors import BundleError, OutputError
from skipstone.runtime.bundle import Bundle

__all__ = ["bundled_bundle"]

NUM_PIECES, PIECE_BYTES = 16, 4096
DRAFTERS: Mapping[str, str] = {"pebble": "pebble-mini"}
"""Name of a bundled model to the one that its bundle carries as drafter."""


def bundled_bundle(name: str, *, on_wait: Callable[[], None] = lambda: None) -> Path:
    """Return the folder of a bundled model's int4 bundle, exporting it if this version has not done so yet.

    That of pebble carries pebble-mini as drafter. Their caches hold integers, over which drafts are verified to the bit
    in texts of any length. `on_wait` is called where another process or thread makes it. Raises: OutputError.
    """
    path = cache_folder() / f"{name}-{version('skipstone')}-{_key(name)}"
    if _opens(path):
        return path
    try:
        with taking_turns(path, on_wait):
            if not _opens(path):
                _export(name, path)
    except (OutputError, OSError) as error:
        if not _opens(path):
            told = str(error)
            if isinstance(error, OSError):
                told = f"{path} cannot be written: {error.strerror}: choose another place"
            raise OutputError(f"{told}; SKIPSTONE_CACHE sets the folder") from error
    return path


def _key(name: str) -> str:
    """Return what stands for the content of a bundled model and its drafter: pieces of their weights, spread over them.

    Every training changes them all, and every load asks.
    """
    key = hashlib.sha256()
    for model in filter(None, (name, DRAFTERS.get(name))):
        file = BUNDLED[model] / "model.safetensors"
        size = file.stat().st_size
        key.update(f"{size}\0".encode())
        with file.open("rb", buffering=0) as stream:
            for place in range(0, size, -(-size // NUM_PIECES)):
                stream.seek(place)
                key.update(stream.read(PIECE_BYTES))
    return key.hexdigest()[:12]


def _opens(path: Path) -> bool:
    try:
        Bundle.open(path)
    except BundleError:
        return False
    return True


def _export(name: str, path: Path) -> None:
    from skipstone.calibrate import AUTO, CacheScalesOfText, Documents
    from skipstone.exporters import ExportOptions, plan_export, with_draft_model
    from skipstone.quant import Recipe

    options = ExportOptions(recipe=Recipe.named("int4"))
    plan = plan_export(BUNDLED[name], options)
    if (drafter := DRAFTERS.get(name)) is not None:
        plan = with_draft_model(plan, plan_export(BUNDLED[drafter], options))
    plan = plan.with_int8_cache(CacheScalesOfText(Documents.read(AUTO)))
    plan.write(path, force=True, command=f"load {name}")
