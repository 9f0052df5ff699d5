"""Types of caches: their names in options, and which of them a model can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from skipstone.devices import Capability, Device
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import PLAIN_CACHE, Bundle

__all__ = ["CACHE_TYPES", "CACHE_WORDS", "CacheName", "checked_cache_type", "nearest_cache_type", "runs_cache"]

CacheName = Literal["fp32", "int8"]
CACHE_TYPES: Final[Mapping[CacheName, str]] = {"fp32": PLAIN_CACHE, "int8": "int8"}
"""How options call a type, and how the manifest does."""
CACHE_WORDS: Final[Mapping[str, str]] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
"""What a type of the manifest is called."""
_CAPABILITIES: Final[Mapping[str, str]] = {"int8": Capability.INT8_CACHE}


def checked_cache_type(bundle: Bundle, device: Device, cache_type: str | None) -> str:
    """Return a type of cache as the manifest calls it; for None the bundle's own, or numbers where the device has no
    kernels for that.

    Raises: ConfigError for one that the bundle has no graphs for, or the device no kernels.
    """
    manifest = bundle.manifest
    own = manifest.cache_type if runs_cache(device, manifest.cache_type) else manifest.cache_types[0]
    found = own if cache_type is None else cache_type
    shown, known = (
        CACHE_WORDS.get(found, found),
        ", ".join(CACHE_WORDS.get(each, each) for each in manifest.cache_types),
    )
    if found not in manifest.cache_types:
        raise ConfigError(
            f"{bundle.path} has graphs for a cache of {known}, not of {shown}; make one with "
            f"`skipstone export CHECKPOINT -o OUT --cache {shown}`"
        )
    if not runs_cache(device, found):
        raise ConfigError(
            f"device {device.name} has no kernels for a cache of {shown} (it has no {_CAPABILITIES[found]}); pass "
            "--cache fp32"
        )
    return found


def runs_cache(device: Device, cache_type: str) -> bool:
    """Whether a device has kernels for a type of cache."""
    return _CAPABILITIES.get(cache_type) in (None, *device.capabilities)


def nearest_cache_type(bundle: Bundle, device: Device, wanted: str) -> str:
    """Return the wanted type of cache where the bundle and the device have it, else the bundle's own, else the plain.

    For a model that goes along with another one, which need not have the other's cache.
    """
    known = bundle.manifest.cache_types
    for cache_type in (wanted, bundle.manifest.cache_type, PLAIN_CACHE):
        if cache_type in known and runs_cache(device, cache_type):
            return cache_type
    return bundle.manifest.cache_type
