"""Which graphs read the prompts of a model: those that decode, or others that are quicker with many tokens."""

from __future__ import annotations

from typing import Final, Literal

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import PREFILL, Bundle, Manifest

__all__ = ["MOST_PREFILL_KL", "PrefillName", "prefill_by_default", "prefill_kl", "reads_apart"]

PrefillName = Literal["auto", "int8", "same"]
MOST_PREFILL_KL: Final = 0.02
"""In nats a token: how far answers may be from those behind a prompt that was read as they are decoded, for `auto`."""


def reads_apart(bundle: Bundle, prefill: PrefillName) -> bool:
    """Return whether graphs of their own read prompts: where `int8` asks for them, and with `auto` where the bundle has
    some that change answers little.

    It never depends on a prompt or on the memory, since the text would. Raises: ConfigError where there are none.
    """
    there = PREFILL in bundle.manifest.variant_kinds
    if prefill == "int8" and not there:
        raise ConfigError(
            f"{bundle.path} has no graphs that read prompts; make one with `skipstone export CHECKPOINT -o OUT "
            "--prefill int8`"
        )
    return there and (prefill == "int8" or (prefill == "auto" and prefill_by_default(bundle.manifest)))


def prefill_by_default(manifest: Manifest) -> bool:
    """Return whether prompts are read by graphs of their own unless asked otherwise, in a bundle that has some."""
    kl = prefill_kl(manifest)
    return kl is not None and kl <= MOST_PREFILL_KL


def prefill_kl(manifest: Manifest) -> float | None:
    """Return by how many nats a token answers change where other graphs read the prompt; None where nobody measured."""
    found = (manifest.check or {}).get("prefill")
    kl = found.get("kl") if isinstance(found, dict) else None
    return float(kl) if isinstance(kl, float | int) else None
