"""What a device can do, in words that the engine, the methods and the planner ask for; nobody asks for its name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["LACKS", "Capability"]


class Capability(StrEnum):
    """One thing that a device can do with a graph, a cache or a call.

    A device of another package may give plain strings: `Capability.INT4 == "int4"`.
    """

    SEVERAL_ROWS = "several-rows"
    """A call takes several rows behind a cache that holds tokens: drafts can be verified."""
    TREE_ATTENTION = "tree-attention"
    """Attention takes a mask, so that rows of one call may branch."""
    SHARED_CACHE = "shared-cache"
    """Attention writes its rows into the cache in place, and copies nothing."""
    INT8_CACHE = "int8-cache"
    """There are kernels for a cache of 8-bit integers."""
    INT4 = "int4"
    """There are kernels that multiply by 4-bit weights as they are."""
    FP16 = "fp16"
    """There are kernels that compute in float16."""
    DYNAMIC_SHAPES = "dynamic-shapes"
    """A graph may be called with another number of rows each time. Without it rows are padded to sizes."""


LACKS: Final[Mapping[Capability, str]] = {
    Capability.SEVERAL_ROWS: "nothing is drafted: every call takes one row",
    Capability.TREE_ATTENTION: "drafts that branch become chains",
    Capability.SHARED_CACHE: "each call copies the cache",
    Capability.INT8_CACHE: "the cache is fp32",
    Capability.INT4: "4-bit weights are unpacked or run on the processor",
    Capability.FP16: "bundles in float16 are refused",
    Capability.DYNAMIC_SHAPES: "rows are padded to the sizes of the bundle",
}
"""What is done where a device lacks something."""
