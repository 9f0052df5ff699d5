"""Checkpoints that store integers: GPTQ and AWQ."""

from __future__ import annotations

from skipstone.exporters.checkpoints.packed.tensors import unpacked

__all__ = ["unpacked"]
