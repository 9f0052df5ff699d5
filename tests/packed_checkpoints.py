"""Checkpoints whose matrices are stored as integers, in the formats of GPTQ and AWQ."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

TARGETS = ["q_proj", "v_proj", "down_proj"]
GPTQ_V1 = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq"}


Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Grid:
    """What a quantizer found: integers [K, N], zero points and scales [G, N], the group of each column [K]."""

    integers: NDArray[np.int64]
    zero_points: NDArray[np.int64]
    scales: NDArray[np.float16]
    groups: NDArray[np.int64]
    bits: int

    def weight(self, n: int, k: int) -> np.float32:
        group = self.groups[k]
        return np.float32(self.integers[k, n] - self.zero_points[group, n]) * np.float32(self.scales[group, n])

    def matrix(self) -> NDArray[np.float32]:
        num_columns, num_rows = self.integers.shape
        return np.array([[self.weight(n, k) for k in range(num_columns)] for n in range(num_rows)], np.float32)


def word(integers: list[int], bits: int) -> int:
    """The 32-bit word with the first integer in its lowest bits."""
    return sum(integer << (bits * place) for place, integer in enumerate(integers))


def words_down(integers: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """[X, Y] to [X * bits / 32, Y], as GPTQ packs its weights."""
    size = 32 // bits
    rows = range(0, integers.shape[0], size)
    words = [[word(integers[x : x + size, y].tolist(), bits) for y in range(integers.shape[1])] for x in rows]
    return np.array(words, np.uint32).view(np.int32)


def words_across(integers: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """[X, Y] to [X, Y * bits / 32], as GPTQ packs its zero points."""
    return np.ascontiguousarray(words_down(integers.T, bits).T)


def gptq(grid: Grid, *, minus: int = 1) -> Arrays:
    """The pieces of a matrix, with `minus` taken off the zero points."""
    return {
        "qweight": words_down(grid.integers, grid.bits),
        "qzeros": words_across(grid.zero_points - minus, grid.bits),
        "scales": grid.scales,
        "g_idx": grid.groups.astype(np.int32),
    }


def rounded(weight: NDArray[np.float32], *, bits: int, group_size: int, shuffled: bool) -> Grid:
    """A matrix [N, K] on the nearest grid of each group, from its smallest to its largest weight."""
    groups = np.arange(weight.shape[1]) // group_size
    if shuffled:
        np.random.default_rng(0).shuffle(groups)
    of_group = [weight[:, groups == group] for group in range(groups.max() + 1)]
    low = np.array([np.minimum(part.min(axis=1), 0) for part in of_group])
    high = np.array([np.maximum(part.max(axis=1), 0) for part in of_group])
    highest = (1 << bits) - 1
    scales = ((high - low) / highest).astype(np.float16)
    zero_points = np.clip(np.rint(-low / scales), 1, highest).astype(np.int64)  # 0 has no place in version 1
    steps = weight.T / scales[groups].astype(np.float32) + zero_points[groups]
    integers = np.clip(np.rint(steps), 0, highest).astype(np.int64)
    return Grid(integers=integers, zero_points=zero_points, scales=scales, groups=groups, bits=bits)


def write_checkpoint(folder: Path, plain: Path, tensors: Arrays, **config: object) -> Path:
    """A checkpoint like `plain` with other tensors, and with more in its config.json."""
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def write_gptq(folder: Path, base: Path) -> Path:
    """Write a checkpoint of whole blocks with its projections as integers of GPTQ."""
    stored = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if "_proj" not in name:
            stored[name] = weight
            continue
        pieces = gptq(rounded(weight, bits=4, group_size=32, shuffled=False))
        stored |= {f"{name.removesuffix('weight')}{piece}": array for piece, array in pieces.items()}
    return write_checkpoint(folder, base, stored, quantization_config=GPTQ_V1)
