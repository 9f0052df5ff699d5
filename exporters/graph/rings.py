"""Which layers keep the last rows of a text only: those that see a window much shorter than the context."""

from __future__ import annotations

from typing import Final

from skipstone.exporters.families import Architecture
from skipstone.runtime.bundle import RingLayout

__all__ = ["ring_layout", "ring_windows"]

# Rows that leave at a time. Pieces of a prompt are as long, so none lies across such a place; and a text may go back
# by as many tokens at least without being read again.
RING_UNIT: Final = 256


def ring_layout(architecture: Architecture, layer: int) -> RingLayout | None:
    """Return which rows of a text the cache that a layer reads holds; None where it holds all.

    It holds all where layers that read it see all or different windows, and where that takes no more room.
    """
    owner, layers = architecture.cache_owner(layer), range(architecture.dimensions.num_layers)
    windows = {architecture.windows[reader] for reader in layers if architecture.cache_owner(reader) == owner}
    window = architecture.windows[owner]
    if window is None or len(windows) > 1:
        return None
    layout = RingLayout(window, RING_UNIT)
    return layout if layout.num_rows < architecture.context_length else None


def ring_windows(architecture: Architecture, layers: range | None = None) -> dict[int, int]:
    """Return the layers whose caches hold the last rows only, with their windows."""
    layers = range(architecture.dimensions.num_layers) if layers is None else layers
    layouts = {layer: ring_layout(architecture, layer) for layer in layers}
    return {layer: layout.window for layer, layout in layouts.items() if layout is not None}
