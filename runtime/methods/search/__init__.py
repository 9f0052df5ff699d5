"""Texts that are searched for: all layers make every token, and which of them is taken is decided otherwise."""

from __future__ import annotations

__all__ = []
