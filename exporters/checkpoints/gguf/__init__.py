"""GGUF files, with their own integers."""

from __future__ import annotations

from skipstone.exporters.checkpoints.gguf.checkpoint import open_gguf
from skipstone.exporters.checkpoints.gguf.configs import CONFIGS
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.layouts import LAYOUTS
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors

__all__ = ["CONFIGS", "LAYOUTS", "GgufFile", "GgufTensor", "GgufTensors", "open_gguf"]
