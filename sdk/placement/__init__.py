"""Where each node of a bundle would run: on a target, or on the CPU beside it."""

from __future__ import annotations

from skipstone.placement.bundle import BundlePlacement, check_target
from skipstone.placement.placement import GraphPlacement, Group, PlacedNode

__all__ = ["BundlePlacement", "GraphPlacement", "Group", "PlacedNode", "check_target"]
