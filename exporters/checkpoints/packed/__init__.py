"""Checkpoints that store integers: GPTQ and AWQ."""

from __future__ import annotations

from skipstone.exporters.checkpoints.packed.tensors import PackedTensors, unpacked

__all__ = ["PackedTensors", "unpacked"]
