"""A model in, a model out: what changes architecture and tensors before the graph is written."""

from __future__ import annotations

from skipstone.exporters.transforms.ffn_width import narrowed
from skipstone.exporters.transforms.lora import merged

__all__ = ["merged", "narrowed"]
