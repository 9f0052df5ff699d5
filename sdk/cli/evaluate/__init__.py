"""`skipstone eval`: quality."""

from __future__ import annotations

__all__ = []
