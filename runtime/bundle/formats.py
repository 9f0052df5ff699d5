"""What the formats of the manifest added and renamed, so that the bundles of all of them can be read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from skipstone.errors import BundleError
from skipstone.runtime.bundle.typed_json import format_of

__all__ = ["FORMAT_VERSION", "refuse_newer", "upgraded"]

FORMAT_VERSION: Final = 10

# The fields that each format added, with what their absence means.
ADDED_FIELDS: Mapping[int, Mapping[str, object]] = {
    2: {"draft_model": None},
    3: {"graph": "skipstone", "long_rope_from": None, "exact": True, "check": None},
    4: {"adapters": {}, "draft_head": None},
    6: {"stop_sources": {}, "sampling": {}, "rotaries": []},
    7: {"variants": {}, "other_caches": {}, "cache_type": "float32", "experts": None},
    9: {"target": "ort", "buckets": None},
}

# Fields of a layer's cache that a format left out; no bundle ever had a value in them.
LEFT_OUT_OF_CACHES: Mapping[int, tuple[str, ...]] = {7: ("k_scale", "v_scale")}
# Fields that a format added to each layer's cache, with what their absence means.
ADDED_TO_CACHES: Mapping[int, Mapping[str, object]] = {8: {"ring": None}}

# Fields that a format added to the entry of each file, with what their absence means.
ADDED_TO_FILES: Mapping[int, Mapping[str, object]] = {10: {"blocks": ""}}

# What a field of an older format is called today: the format that renamed it, its old name, its new one.
RENAMED_FIELDS = ((5, "drafter", "draft_model"),)


def upgraded(data: Any) -> Any:
    """Return the data of an older format as today's has it; other data as it is."""
    found = format_of(data)
    added = {key: value for number, fields in ADDED_FIELDS.items() if number > found for key, value in fields.items()}
    renamed = {old: new for number, old, new in RENAMED_FIELDS if number > found}
    if not 1 <= found < FORMAT_VERSION or {*added, *renamed.values()} & data.keys():
        return data
    known = {renamed.get(key, key): value for key, value in data.items()}
    if isinstance(recipe := known.get("recipe"), dict) and "target" in recipe:
        added["target"] = recipe["target"]  # of the target `plain`; until 9 only the recipe said so
    if "cache" in known:
        known["cache"] = _layers(known["cache"], found)
    if isinstance(known.get("other_caches"), dict):
        known["other_caches"] = {name: _layers(layers, found) for name, layers in known["other_caches"].items()}
    if isinstance(known.get("files"), dict):
        known["files"] = {name: _with_added(entry, ADDED_TO_FILES, found) for name, entry in known["files"].items()}
    return {**known, **added, "format_version": FORMAT_VERSION}


def _layers(data: Any, found: int) -> Any:
    """Return the layers' caches of an older format as today's has them."""
    return [_layer(layer, found) for layer in data] if type(data) is list else data


def _layer(data: Any, found: int) -> Any:
    """Return a layer's cache of an older format as today's has it: without the empty fields that it lost."""
    if not isinstance(data, dict):
        return data
    lost = {name for number, names in LEFT_OUT_OF_CACHES.items() if number > found for name in names}
    kept = {key: value for key, value in data.items() if key not in lost or value is not None}
    return _with_added(kept, ADDED_TO_CACHES, found)


def _with_added(data: Any, added_fields: Mapping[int, Mapping[str, object]], found: int) -> Any:
    """Return an entry of an older format with what its missing fields mean."""
    if not isinstance(data, dict):
        return data
    added = {name: value for number, more in added_fields.items() if number > found for name, value in more.items()}
    return {**added, **data}


def refuse_newer(data: object) -> None:
    """Raise BundleError for the data of a format that this version does not know."""
    found = format_of(data)
    if found > FORMAT_VERSION:
        raise BundleError(
            f"bundle format {found} is newer than this skipstone {version('skipstone')} reads ({FORMAT_VERSION}): "
            "upgrade with pip install -U skipstone"
        )
