"""Tiny models that are sure of their tokens, and whose late layers add little: their exits know what comes."""

from __future__ import annotations

import shutil
from pathlib import Path

SHARPNESS = 4.0


def sharp_checkpoint(checkpoint: Path, folder: Path, *, late: float) -> Path:
    """Copy a tiny checkpoint to `folder`: its logits 4 times as large, its third and fourth layer times `late`."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= SHARPNESS
    for layer in (2, 3):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.{layer}.{name}.weight"] *= late
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
