"""What a model can do without, found by running it without that: layers, blocks, FFN channels."""

from __future__ import annotations

from skipstone.prune.prune import Pruning, find_pruning

__all__ = ["Pruning", "find_pruning"]
