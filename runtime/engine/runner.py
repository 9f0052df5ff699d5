"""How waiting tokens become calls: prompts in pieces, exact calls in pairs."""

from __future__ import annotations

__all__ = ["PREFILL_CHUNK"]

# Longer prompts are fed in pieces: attention scores of a piece stay in the cache, and Ctrl-C is heard between two.
PREFILL_CHUNK = 256
PADDING_ID = 0
