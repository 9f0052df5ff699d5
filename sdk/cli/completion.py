"""What a shell offers for a word that is half typed: models, methods, devices. It must be quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["complete_devices", "complete_methods", "complete_models"]

MANIFEST: Final = "skipstone.json"  # as runtime/bundle/manifest.py says, whose import would take a tenth of a second


def complete_models(incomplete: str) -> list[str]:
    """Return the models that begin so: bundled ones, kept exports' sources, and paths that lead to one."""
    return [name for name in dict.fromkeys(_models(incomplete)) if name.startswith(incomplete)]


def _models(incomplete: str) -> Iterator[str]:
    yield from ("pebble", "pebble-mini")
    folder, slash, _ = incomplete.rpartition("/")
    place = Path(f"{folder}{slash}" or ".")
    try:
        found = sorted(place.iterdir())
    except OSError:
        found = []
    for path in found:
        name = f"{folder}{slash}{path.name}"
        if path.suffix.lower() == ".gguf" or any((path / file).is_file() for file in (MANIFEST, "config.json")):
            yield name
        elif path.is_dir() and path.name[0] != ".":
            yield f"{name}/"
    from skipstone.kept_exports import kept_exports

    yield from (kept.source for kept in kept_exports())


def complete_methods(incomplete: str) -> list[str]:
    """Return the methods that begin like the last of those joined by commas."""
    from skipstone.runtime.methods import known_methods

    before, comma, last = incomplete.rpartition(",")
    names = [name for name, method in known_methods().items() if method.is_drafter or not comma]
    return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in before.split(",")]


def complete_devices(incomplete: str) -> list[str]:
    """Return the devices that begin so."""
    from skipstone.devices import DEFAULT_DEVICE, DOORS

    names = [DEFAULT_DEVICE, *(door.name for door in DOORS), "auto"]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
