"""Checkpoints that store integers: GPTQ, AWQ and MLX."""

from __future__ import annotations

from skipstone.exporters.checkpoints.packed.opening import open_packed
from skipstone.exporters.checkpoints.packed.tensors import unpacked

__all__ = ["open_packed", "unpacked"]
