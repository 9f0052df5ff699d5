"""Dense FFNs carved into experts, found by running the model on a text."""

from __future__ import annotations

from skipstone.carve.carve import FoundExperts, find_experts

__all__ = ["FoundExperts", "find_experts"]
