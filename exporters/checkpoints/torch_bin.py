"""The reader of pytorch_model.bin files, for checkpoints that have no safetensors; the only place that needs torch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import refuse_lfs_pointer
from skipstone.exporters.checkpoints.tensors import StoredTensor

if TYPE_CHECKING:
    import torch

__all__ = ["torch_tensors_in"]

_DTYPES: Final[Mapping[str, str]] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "uint8": "U8",
    "uint32": "U32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _TorchTensor:
    tensor: torch.Tensor
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def fill(self, out: NDArray[np.generic]) -> None:
        import torch

        torch.from_numpy(out).copy_(self.tensor.detach())


def torch_tensors_in(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that torch.save wrote, by name; values stay in the memory-mapped file until they are read.

    Files older than torch 1.6 cannot be mapped and are loaded whole. No code from the file is run.
    Raises: CheckpointError for a git-lfs pointer, without torch, or when the file is not a dictionary of tensors.
    """
    refuse_lfs_pointer(path)  # it looks, too, whether this is a regular file of the folder
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading it needs torch: pip install skipstone[train], or convert to safetensors"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: torch cannot read it: {type(error).__name__}: {reason}") from error
    tensors = state.items() if isinstance(state, Mapping) else ()
    found: dict[str, StoredTensor] = {
        name: _TorchTensor(tensor=tensor, dtype=_dtype_name(tensor))
        for name, tensor in tensors
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    if not found:
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found none: save the model's state_dict()")
    return found


def _dtype_name(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    layout = str(tensor.layout).removeprefix("torch.")
    return _DTYPES.get(dtype, dtype) if layout == "strided" else f"{layout} {dtype}"
