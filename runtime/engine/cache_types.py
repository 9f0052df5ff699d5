"""Types of caches: their names in options, and which of them a model can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from skipstone.devices import Device
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import PLAIN_CACHE, Bundle

__all__ = ["CACHE_TYPES", "CACHE_WORDS", "CacheName", "checked_cache_type"]

CacheName = Literal["fp32", "int8"]
CACHE_TYPES: Final[Mapping[CacheName, str]] = {"fp32": PLAIN_CACHE, "int8": "int8"}
"""How options call a type, and how the manifest does."""
CACHE_WORDS: Final[Mapping[str, str]] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
"""What a type of the manifest is called."""
_CAPABILITIES: Final[Mapping[str, str]] = {"int8": "int8-cache"}


def checked_cache_type(bundle: Bundle, device: Device, cache_type: str | None) -> str:
    """Return a type of cache as the manifest calls it, the bundle's own for None.

    Raises: ConfigError for one that the bundle has no graphs for, or the device no kernels.
    """
    manifest = bundle.manifest
    found = manifest.cache_type if cache_type is None else cache_type
    shown, known = (
        CACHE_WORDS.get(found, found),
        ", ".join(CACHE_WORDS.get(each, each) for each in manifest.cache_types),
    )
    if found not in manifest.cache_types:
        raise ConfigError(
            f"{bundle.path} has graphs for a cache of {known}, not of {shown}; make one with "
            f"`skipstone export CHECKPOINT -o OUT --cache {shown}`"
        )
    if _CAPABILITIES.get(found) not in (None, *device.capabilities):
        raise ConfigError(f"device {device.name} has no kernels for a cache of {shown}; pass --cache fp32")
    return found
