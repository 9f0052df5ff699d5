"""How the weights of a folder are stored: as numbers, or as integers of GPTQ, AWQ or MLX. The data tell, not labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import optional_json
from skipstone.exporters.checkpoints.packed.mlx import MlxTensors, mlx_stems
from skipstone.exporters.checkpoints.packed.tensors import unpacked
from skipstone.exporters.checkpoints.tensors import FLOATS, StoredTensors, TensorSource

__all__ = ["open_packed"]

# What AutoAWQ calls the settings in its own file.
_AWQ_KEYS: Final[Mapping[str, str]] = {"w_bit": "bits", "q_group_size": "group_size"}
# What the names of pieces end in, besides integers.
_PIECES: Final = ("scale", "scales", "scale_inv", "absmax", "SCB", "zeros", "qzeros", "g_idx")


def open_packed(
    folder: Path, config: Mapping[str, Any], tensors: StoredTensors
) -> tuple[TensorSource, tuple[str, ...]]:
    """The tensors with each matrix under one name, and what is to be said where settings and data differ.

    Raises: as `unpacked` and `MlxTensors` do; CheckpointError for integers of which no file says what they are.
    """
    stated = config.get("quantization_config")
    if mlx_stems(tensors):
        return MlxTensors(tensors, config.get("quantization") or stated), ()
    if stated is None:
        stated = _settings_beside(folder, tensors)
    if stated is None:
        return tensors, ()
    if isinstance(stated, Mapping) and isinstance(stated.get("quant_method"), str) and _are_numbers(tensors):
        return tensors, (f"config.json says {stated['quant_method']}, but all weights are numbers: read as such",)
    packed = unpacked({"quantization_config": stated}, tensors)
    return packed, packed.remarks


def _are_numbers(tensors: StoredTensors) -> bool:
    """Whether no tensor is of integers, or a piece of a packed matrix."""
    names = tensors.names()
    return all(tensors.dtype(name) in FLOATS and not name.endswith(_PIECES) for name in names)


def _settings_beside(folder: Path, tensors: StoredTensors) -> dict[str, Any] | None:
    """What the file of another program says of packed matrices; None where there are none.

    AutoGPTQ writes quantize_config.json, AutoAWQ quant_config.json.
    """
    piece = min((name for name in tensors.names() if name.endswith(".qweight")), default=None)
    if piece is None:
        return None
    if gptq := optional_json(folder / "quantize_config.json"):
        return {"quant_method": "gptq", **gptq}
    if awq := optional_json(folder / "quant_config.json"):
        return {"quant_method": "awq", **{_AWQ_KEYS.get(key, key): value for key, value in awq.items()}}
    raise CheckpointError(
        f"{folder} holds {piece}, integers as of GPTQ or AWQ, but config.json has no quantization_config, and there is "
        "no quantize_config.json or quant_config.json: fetch the checkpoint again"
    )
