"""Families whose exits take adapters."""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES: Mapping[str, dict[str, object]] = {
    "llama": {},
    "gpt2": {},
    "gemma2": {"final_logit_softcapping": 5.0, "sliding_window": 64},
}
