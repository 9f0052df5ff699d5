"""What is trained for the exits of a checkpoint: a small adapter of each, the file of them, and their graphs.

The adapter of an exit turns its hidden state h into y = n + U(V n), where n is RMSNorm(h) with gains of its own; the
final norm and the head, which all exits share, read y. Gains of 1 and U = 0 are the plain exit: the final norm forgets
the scale. Source: self-supervised exits (Valade, 2024), with an adapter of low rank in place of a head of each.
Shapes: B batch, T tokens, E hidden size, r rank.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.safetensors_file import safetensors_in
from skipstone.exporters.checkpoints.tensors import StoredTensors
from skipstone.exporters.families import Architecture

__all__ = [
    "ADAPTERS_FILE",
    "EPSILON",
    "ExitAdapter",
    "ExitAdapters",
    "adapters_bytes",
    "adapters_for",
    "weights_identity",
]

ADAPTERS_FILE: Final = "exit_adapters.safetensors"
EPSILON: Final = 1e-6
FORMAT_VERSION: Final = 1
# The library writes several entries of metadata in an order that changes from run to run, so all stands in one.
_METADATA: Final = "skipstone"
_NAME: Final = re.compile(r"exits\.([1-9]\d*)\.(gain|down|up)")
_COMMAND: Final = "`skipstone train-exits CHECKPOINT --text FILE`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAdapter:
    """The weights of one exit's adapter, float32: `gain` [E], `down` [r, E] is V, `up` [E, r] is U."""

    gain: NDArray[np.float32]
    down: NDArray[np.float32]
    up: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAdapters:
    """A file of adapters, opened and checked; no weight is read.

    `ranks` has the rank of each adapter by the number of layers before its exit; `weights` tells for which weights they
    were trained, see `weights_identity`.
    """

    path: Path
    ranks: Mapping[int, int]
    hidden_size: int
    weights: str
    tensors: StoredTensors

    @classmethod
    def open(cls, path: Path) -> ExitAdapters:
        """The adapters in a file. Raises: CheckpointError when it is none, is damaged or of a newer version."""
        tensors = StoredTensors(safetensors_in(path))
        hidden_size, weights = _metadata(path)
        ranks = _ranks(path, tensors)
        found = cls(path=path, ranks=ranks, hidden_size=hidden_size, weights=weights, tensors=tensors)
        for layers in found.ranks:
            for part, shape in found._shapes(layers).items():
                if (stored := tensors.shape(f"exits.{layers}.{part}")) != shape:
                    raise CheckpointError(
                        f"{path}: exits.{layers}.{part} has shape {list(stored)}, wanted {list(shape)}: the file is "
                        f"damaged; make it anew with {_COMMAND}"
                    )
        return found

    def read(self, layers: int) -> ExitAdapter:
        """The weights of one exit's adapter. Raises: CheckpointError for values that are no numbers."""
        shapes = self._shapes(layers)
        return ExitAdapter(
            **{part: self.tensors.read(f"exits.{layers}.{part}", shape) for part, shape in shapes.items()}
        )

    def _shapes(self, layers: int) -> dict[str, tuple[int, ...]]:
        size, rank = self.hidden_size, self.ranks[layers]
        return {"gain": (size,), "down": (rank, size), "up": (size, rank)}


def _metadata(path: Path) -> tuple[int, str]:
    """Return hidden size and identity of the weights that a file is for."""
    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_METADATA, "null")
    try:
        about = json.loads(text)
        version, found = about["format_version"], (int(about["hidden_size"]), str(about["weights"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no adapters of exits; make them with {_COMMAND}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this skipstone reads {FORMAT_VERSION}: upgrade, or make the file "
            f"anew with {_COMMAND}"
        )
    return found


def _ranks(path: Path, tensors: StoredTensors) -> dict[int, int]:
    parts: dict[int, set[str]] = {}
    for name in tensors.names():
        if (place := _NAME.fullmatch(name)) is None:
            raise CheckpointError(f"{path}: {name!r} is no part of an adapter; wanted exits.4.gain, .down and .up")
        parts.setdefault(int(place[1]), set()).add(place[2])
    for layers, found in parts.items():
        if missing := {"gain", "down", "up"} - found:
            raise CheckpointError(f"{path} lacks exits.{layers}.{min(missing)}; make the file anew with {_COMMAND}")
    return {layers: tensors.shape(f"exits.{layers}.down")[0] for layers in sorted(parts)}


def adapters_bytes(adapters: Mapping[int, ExitAdapter], *, weights: str) -> bytes:
    """Return the contents of the file of adapters, by the number of layers before each exit; the same for the same."""
    tensors = {
        f"exits.{layers}.{part}": np.ascontiguousarray(getattr(adapter, part))
        for layers, adapter in adapters.items()
        for part in ("gain", "down", "up")
    }
    hidden_size = len(next(iter(adapters.values())).gain)
    about = {"format_version": FORMAT_VERSION, "hidden_size": hidden_size, "weights": weights}
    return save(tensors, {_METADATA: json.dumps(about)})


def weights_identity(checkpoint: Checkpoint, architecture: Architecture) -> str:
    """Return 16 digits that other weights do not have, from the smallest matrix of the checkpoint; reads that one."""
    matrices = {name: shape for name, shape in architecture.tensor_shapes().items() if len(shape) == 2}
    name = min(matrices, key=lambda name: (math.prod(matrices[name]), name))
    return hashlib.sha256(checkpoint.tensors.read(name, matrices[name]).tobytes()).hexdigest()[:16]


def adapters_for(
    checkpoint: Checkpoint, architecture: Architecture, exits: Sequence[int], wanted: str | Path
) -> tuple[ExitAdapters | None, tuple[str, ...]]:
    """Return the adapters that an export with these exits takes, None for none, and what is to be said about them.

    `wanted` is a file, `none`, or `auto`: ADAPTERS_FILE in the checkpoint's folder, if it is there and there are exits.
    Raises: CheckpointError when the file is not right or of another model; ConfigError for a file but no exits, or when
    a file that was named has an adapter for none of them.
    """
    path = checkpoint.path / ADAPTERS_FILE if wanted == "auto" else Path(wanted).resolve()
    if wanted == "none" or (wanted == "auto" and not (exits and path.is_file())):
        return None, ()
    if not exits:
        raise ConfigError(f"{path} has adapters of exits, but no exits are asked for; add --exits auto")
    found, d = ExitAdapters.open(path), architecture.dimensions
    if found.hidden_size != d.hidden_size or max(found.ranks) >= d.num_layers:
        raise CheckpointError(
            f"{path} is for another model: hidden size {found.hidden_size}, exits after {_listed(found.ranks)} layers; "
            f"this one has hidden size {d.hidden_size} and {d.num_layers} layers; train them for it with {_COMMAND}"
        )
    if wanted != "auto" and not found.ranks.keys() & {*exits}:
        raise ConfigError(
            f"{path} has adapters for exits after {_listed(found.ranks)} layers, and the exits asked for are after "
            f"{_listed(exits)}; add --exits {','.join(map(str, found.ranks))}, or leave --exit-adapters out"
        )
    return found, tuple(_remarks(found, exits, weights_identity(checkpoint, architecture)))


def _remarks(found: ExitAdapters, exits: Sequence[int], weights: str) -> list[str]:
    taken, bare = [one for one in exits if one in found.ranks], [one for one in exits if one not in found.ranks]
    remarks = [f"exits after {_listed(taken)} layers take their adapters from {found.path}"] if taken else []
    if bare:
        remarks.append(f"{found.path} has no adapter for exits after {_listed(bare)} layers: they stay plain")
    if left := sorted(found.ranks.keys() - {*exits}):
        remarks.append(f"{found.path} has adapters for exits that are not asked for: after {_listed(left)} layers")
    if found.weights != weights:
        remarks.append(f"{found.path} was trained for other weights: these exits may be wrong more often")
    return remarks


def _listed(numbers: Sequence[int] | Mapping[int, int]) -> str:
    return ", ".join(map(str, numbers))
