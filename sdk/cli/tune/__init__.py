"""`skipstone tune`: measure the device and calibrate methods."""

from __future__ import annotations

__all__ = []
