"""GGUF files, with their own integers."""

from __future__ import annotations

from skipstone.exporters.checkpoints.gguf.checkpoint import open_gguf

__all__ = ["open_gguf"]
