"""What the graphs of a variant have in place of the plain model's.

Shapes: K kv heads, D padded head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.exporters.graph.kernels import Kernels
from skipstone.runtime.bundle import PLAIN_CACHE, variant_name

__all__ = ["PLAIN", "CacheScales", "GraphVariant"]

"""The kind whose carved FFNs use some of their experts."""

CacheScales: TypeAlias = Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""By the number of the cache: what an integer of a key and of a value stands for, [K, D] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphVariant:
    """The settings of the graphs of one variant; by default those of the plain model.

    `kind` is what the manifest calls it, beside the type of its cache. `kernels` write its operators, None: those of
    the target. With `cache_scales` keys and values are kept as int8. One that `only_reads` writes the caches for tokens
    in a chain, and gives no logits.
    """

    kind: str = ""
    kernels: type[Kernels] | None = None
    cache_scales: CacheScales | None = None
    only_reads: bool = False

    @property
    def name(self) -> str:
        """The variant's name in the manifest, "" for the plain model."""
        return variant_name(self.kind, PLAIN_CACHE if self.cache_scales is None else "int8")

    def with_cache(self, cache_scales: CacheScales) -> GraphVariant:
        """Return the same variant over an int8 cache."""
        return replace(self, cache_scales=cache_scales)


PLAIN = GraphVariant()
