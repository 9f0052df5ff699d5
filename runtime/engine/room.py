"""How long a text may be here: what a cache takes, and what the memory that is left allows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from skipstone.runtime.bundle import LayerCache, Manifest
from skipstone.runtime.engine.cache_types import CACHE_WORDS

__all__ = ["Room", "cache_bytes", "cache_layouts", "memory_told", "most_tokens"]

# Of the memory that is left, calls and the rest of the program get a tenth, and at least so many bytes.
KEPT_SHARE: Final = 0.1
KEPT_BYTES: Final = 64 << 20
# Room is given in steps, and never less than so much: shorter texts are what every model is asked for.
STEP: Final = 256


def cache_bytes(layers: Sequence[LayerCache], num_tokens: int) -> int:
    """Return what the keys and values of so many tokens take in a cache of these layers."""
    return sum(layer.num_rows(num_tokens) * layer.bytes_per_token for layer in layers)


def cache_layouts(manifest: Manifest) -> Mapping[str, Sequence[LayerCache]]:
    """Return the layers of a bundle's caches, by type; that which it takes when nobody chooses comes first."""
    types = sorted(manifest.cache_types, key=lambda cache_type: cache_type != manifest.cache_type)
    return {cache_type: manifest.layout(cache_type) for cache_type in types}


def memory_told(manifest: Manifest, cache_type: str, num_tokens: int, *, num_rows: int = 1) -> str:
    """Return in words what room for so many tokens takes in a type of cache, and what less the int8 cache would."""
    megabytes = {
        name: num_rows * cache_bytes(layers, num_tokens) / 1e6 for name, layers in cache_layouts(manifest).items()
    }
    told = f"{megabytes[cache_type]:,.1f} MB in the {CACHE_WORDS[cache_type]} cache"
    if cache_type == "int8" or "int8" not in megabytes:
        return told
    return f"{told} ({megabytes['int8']:,.1f} MB with --cache int8)"


def most_tokens(layers: Sequence[LayerCache], left: int, *, limit: int) -> int:
    """Return how many tokens a cache of these layers may hold in `left` bytes, some of which stay free.

    At most `limit`; below that a multiple of 256, and never less than the first.
    """
    budget = left - max(KEPT_BYTES, int(KEPT_SHARE * left))
    if cache_bytes(layers, limit) <= budget:
        return limit
    steps = range(STEP, limit, STEP)
    number = bisect_right(steps, budget, key=lambda num_tokens: cache_bytes(layers, num_tokens))
    return steps[max(0, number - 1)] if steps else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """For how many tokens a text gets room, and why: `limit` is what the model sees, `allowed` what memory allows.

    `left` are the bytes that were free, None where nobody tells; `num_rows` texts share them. `wanted` tokens are
    needed: never is less given, as the memory of a row is taken when the row is written.
    """

    limit: int
    allowed: int
    left: int | None
    cache_type: str
    num_rows: int = 1
    wanted: int = 0

    @property
    def num_tokens(self) -> int:
        """For how many tokens there is room."""
        return min(self.limit, max(self.allowed, self.wanted))

    @property
    def told(self) -> str | None:
        """What there is to say: None where the model's whole context fits."""
        if self.left is None or self.allowed >= self.limit:
            return None
        texts = "" if self.num_rows == 1 else f" for each of {self.num_rows} texts"
        memory = f"{self.left / 1e6:,.0f} MB of free memory allow"
        cache = f"with the {CACHE_WORDS[self.cache_type]} cache"
        given = f"context {self.num_tokens:,} of {self.limit:,} tokens{texts}"
        if self.num_tokens > self.allowed:
            return f"{given}, as prompt and answer need; {memory} only {self.allowed:,} {cache}"
        return f"{given}: what {memory} {cache}"
