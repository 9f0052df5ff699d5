"""Which layers a model can do without, found by running it without them."""

from __future__ import annotations

from skipstone.prune.prune import Pruning, find_layers

__all__ = ["Pruning", "find_layers"]
