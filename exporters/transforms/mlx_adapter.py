"""An adapter as mlx-lm saves it, in the words of PEFT. `lora_a` [inputs, r] and `lora_b` [r, outputs] are transposed.

A matrix [outputs, inputs] becomes base + scale * (A @ B) transposed; with DoRA its rows then get the lengths `m`.
Source: mlx_lm.tuner.lora and mlx_lm.tuner.dora.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensor, StoredTensors, optional_json, safetensors_in
from skipstone.exporters.transforms.peft_adapter import SETTINGS, Adapter

__all__ = ["is_mlx_adapter", "open_mlx_adapter"]

_FILE: Final = "adapters.safetensors"
_KINDS: Final = ("lora", "dora", "full")
_ADVICE: Final = "fuse it with mlx_lm.fuse, and export the result"
_EMBEDDINGS: Final = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_FACTORS: Final = {"lora_a": "a", "lora_b": "b"}


def is_mlx_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of mlx-lm. Raises: CheckpointError for damaged settings."""
    settings = optional_json(folder / SETTINGS)
    return "peft_type" not in settings and ("lora_parameters" in settings or "fine_tune_type" in settings)


def open_mlx_adapter(folder: Path) -> Adapter:
    """The adapter in a folder; no weight is read.

    Raises: CheckpointError when it is damaged; UnsupportedModel for what cannot be merged, by name.
    """
    settings = optional_json(folder / SETTINGS)
    kind = settings.get("fine_tune_type") or ("dora" if settings.get("use_dora") else "lora")
    if kind not in _KINDS:
        raise UnsupportedModel(
            f"adapters of mlx-lm of type {kind!r} are not supported, only {', '.join(_KINDS)}: {_ADVICE}"
        )
    if not (folder / _FILE).is_file():
        raise CheckpointError(f"{folder} has no {_FILE}: pass the folder that mlx_lm.lora wrote")
    parts: dict[str, dict[str, str]] = {}
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in safetensors_in(folder / _FILE).items():
        target, part = _place(name)
        parts.setdefault(target, {})[part] = name
        tensors[name] = _Transposed(tensor) if _is_factor(name) else tensor
        if len(tensor.shape) > 2:
            raise UnsupportedModel(f"the adapter's tensor {name!r} is for all experts of a layer: {_ADVICE}")
    words = {"r": 1, "lora_alpha": 1} if kind == "full" else _scales(settings.get("lora_parameters"))
    words |= {"use_dora": kind == "dora"}
    return Adapter(folder=folder, settings=words, tensors=StoredTensors(tensors), parts=parts)


def _scales(stated: object) -> dict[str, Any]:
    """Rank and alpha. Older files have an alpha too, by which the scale is multiplied."""
    found: Mapping[str, Any] = stated if isinstance(stated, Mapping) else {}
    rank, scale, alpha = found.get("rank"), found.get("scale"), found.get("alpha")
    numbers = [value for value in (scale, alpha) if value is not None]
    good = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    if type(rank) is not int or rank < 1 or scale is None or not good:
        raise CheckpointError(f"{SETTINGS}: lora_parameters must have a rank and a scale, found {stated!r}")
    return {"r": rank, "lora_alpha": scale * (rank if alpha is None else alpha)}


def _place(name: str) -> tuple[str, str]:
    """The tensor of the model that an adapter's tensor changes, and its part in that, in the words of PEFT."""
    module, _, last = name.rpartition(".")
    if last == "m":
        return f"{module}.weight", "magnitude"
    if last not in _FACTORS:
        return name, "new"
    is_embedding = module.rpartition(".")[2] in _EMBEDDINGS
    return f"{module}.weight", f"embedding_{_FACTORS[last]}" if is_embedding else _FACTORS[last]


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] in _FACTORS


@dataclass(frozen=True, slots=True)
class _Transposed:
    """A stored matrix, the other way round."""

    tensor: StoredTensor

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1]

    @property
    def num_bytes(self) -> int:
        return self.tensor.num_bytes

    def fill(self, out: NDArray[np.generic]) -> None:
        stored = np.empty(self.tensor.shape, out.dtype)
        self.tensor.fill(stored)
        out[...] = stored.T
