"""What comes with the package, models and texts, and the folders for what is made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skipstone.runtime.bundle import Manifest

__all__ = ["BUNDLED", "CALIBRATION_TEXT", "cache_folder", "checkpoint_told", "notes_folder"]

_HERE = Path(__file__).parent / "models"
BUNDLED: Mapping[str, Path] = {name: _HERE / name for name in ("pebble", "pebble-mini")}
"""Name to checkpoint folder."""
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
