"""Variants of a bundle's graphs: other graphs of the same stages, and how they are called.

A variant is of a kind (`sparse`, `prefill`, none for the plain model) and for a type of cache. Its name is both:
`sparse`, `cache-int8`, `sparse+cache-int8`; the plain graphs, whose cache is of numbers, have none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

from skipstone.errors import BundleError

__all__ = [
    "PLAIN_CACHE",
    "PLAIN_CACHES",
    "PREFILL",
    "SPARSE",
    "Variants",
    "check_variants",
    "graph_of",
    "kind_and_cache",
    "variant_file",
    "variant_name",
]

PLAIN_CACHE: Final = "float32"
PLAIN_CACHES: Final = (PLAIN_CACHE, "float16")
"""The types that the cache of plain graphs may have."""
PREFILL: Final = "prefill"
"""The kind of graphs that read prompts: they write the caches, and give no logits."""
SPARSE: Final = "sparse"
"""The kind of graphs that run some experts of each FFN."""
Variants: TypeAlias = Mapping[str, Mapping[str, str]]
"""By the name of a variant: the plain graph's file to the file in its place, for those that differ."""
_CACHE: Final = "cache-"
_WORD: Final = "[a-z0-9]+(-[a-z0-9]+)*"


def variant_name(kind: str, cache_type: str) -> str:
    """Return the name of the variant of a kind, "" for the plain model, for a type of cache."""
    return "+".join(part for part in (kind, "" if cache_type in PLAIN_CACHES else f"{_CACHE}{cache_type}") if part)


def variant_file(file: str, name: str) -> str:
    """Return what a plain graph's file is called in a variant: `stage-00.onnx` is `stage-00.sparse.onnx`."""
    return f"{file.removesuffix('.onnx')}.{name}.onnx" if name else file


def kind_and_cache(name: str) -> tuple[str, str]:
    """Return the kind and the type of cache of a variant. Raises: BundleError."""
    first, _, second = name.partition("+")
    kind, cache = ("", first) if first.startswith(_CACHE) else (first, second)
    cache_type = cache.removeprefix(_CACHE) if cache else PLAIN_CACHE
    whole = re.fullmatch(_WORD, cache_type) and re.fullmatch(f"({_WORD})?", kind)
    if not whole or not name or variant_name(kind, cache_type) != name:
        raise BundleError(f"variants: {name[:80]!r} is no name of a variant, such as sparse+cache-int8")
    return kind, cache_type


def graph_of(file: str, variants: Variants, *, kind: str, cache_type: str) -> str:
    """Return the file of a plain graph in a variant, which may have it as the plain model or that of the cache has."""
    for name in (variant_name(kind, cache_type), variant_name("", cache_type)):
        if file in variants.get(name, {}):
            return variants[name][file]
    return file


def check_variants(
    variants: Variants, *, graphs: Collection[str], files: Collection[str], cache_types: Collection[str]
) -> None:
    """Raise BundleError unless every kind is there for all types of cache, and all files are those of the bundle."""
    known = {kind_and_cache(name) for name in variants}
    wanted = {(kind, cache_type) for kind, _ in {*known, ("", "")} for cache_type in cache_types} - {("", PLAIN_CACHE)}
    for kind, cache_type in sorted(known ^ wanted):
        state = "missing" if (kind, cache_type) in wanted else f"for no cache of {', '.join(cache_types)}"
        raise BundleError(f"variants: {variant_name(kind, cache_type)} is {state}")
    for name, own_files in variants.items():
        for plain, file in own_files.items():
            if plain not in graphs:
                raise BundleError(f"variants[{name!r}]: {plain!r} is no graph of the bundle")
            if file not in files:
                raise BundleError(f"files: {file} is missing")
