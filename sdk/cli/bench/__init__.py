"""`skipstone bench`: speed."""

from __future__ import annotations

__all__ = []
