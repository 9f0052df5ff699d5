"""Bundle to tokens: one room for each task; parts are imported from the rooms."""

from __future__ import annotations

__all__ = []
