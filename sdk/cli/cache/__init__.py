"""`skipstone cache`: what is kept of models that were run by name."""

from __future__ import annotations

from skipstone.cli.cache.group import cache

__all__ = ["cache"]
