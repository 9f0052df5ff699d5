"""What a shell offers for a word that is half typed: models, methods, devices. It must be quick."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import entry_points, version
from pathlib import Path

__all__ = ["complete_devices", "complete_methods", "complete_models"]


def complete_models(incomplete: str) -> list[str]:
    """Return the models that begin so: bundled ones, kept exports' sources, and paths that lead to one."""
    return [name for name in dict.fromkeys(_models(incomplete)) if name.startswith(incomplete)]


def _models(incomplete: str) -> Iterator[str]:
    from skipstone.bundled import BUNDLED
    from skipstone.by_name import MANIFEST_NAME, kept_exports

    yield from BUNDLED
    folder, slash, _ = incomplete.rpartition("/")
    place = Path(f"{folder}{slash}" or ".")
    try:
        found = sorted(place.iterdir())
    except OSError:
        found = []
    for path in found:
        name = f"{folder}{slash}{path.name}"
        if path.suffix.lower() == ".gguf" or any((path / file).is_file() for file in (MANIFEST_NAME, "config.json")):
            yield name
        elif path.is_dir() and path.name[0] != ".":
            yield f"{name}/"
    yield from (kept.asked for kept in kept_exports())


def complete_methods(incomplete: str) -> list[str]:
    """Return the methods that begin like the last of those joined by commas."""
    before, comma, last = incomplete.rpartition(",")
    names = _words("skipstone.drafters", _joined_methods if comma else _methods)
    return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in before.split(",")]


def complete_devices(incomplete: str) -> list[str]:
    """Return the devices that begin so."""
    return [name for name in _words("skipstone.devices", _devices) if name.startswith(incomplete)]


def _methods() -> list[str]:
    from skipstone.runtime.methods import known_methods

    return list(known_methods())


def _joined_methods() -> list[str]:
    from skipstone.runtime.methods import registered_drafters

    return list(registered_drafters())


def _devices() -> list[str]:
    from skipstone.devices import DEFAULT_DEVICE, DOORS

    return list(dict.fromkeys([DEFAULT_DEVICE, *(door.name for door in DOORS), "auto"]))


def _words(group: str, make: Callable[[], list[str]]) -> list[str]:
    """Return the words that `make` gives; they are kept until packages that may add some come or go."""
    from skipstone.bundled import cache_folder

    packages = sorted(f"{entry.name} {entry.value}" for entry in entry_points(group=group))
    key = f"{version('skipstone')} {make.__name__} {' '.join(packages)}"
    file = cache_folder() / "completion.json"
    kept = _kept_words(file)
    if key not in kept:
        kept = {old: words for old, words in kept.items() if old.startswith(f"{version('skipstone')} ")}
        kept[key] = make()
        with suppress(OSError):  # a cache that cannot be written costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept), encoding="utf-8")
    return kept[key]


def _kept_words(file: Path) -> dict[str, list[str]]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {str(key): [str(word) for word in words] for key, words in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
