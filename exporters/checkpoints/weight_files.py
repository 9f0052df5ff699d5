"""The weights in a folder: one file or several, as safetensors or as torch saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import listing, read_json
from skipstone.exporters.checkpoints.safetensors_file import safetensors_in
from skipstone.exporters.checkpoints.tensors import StoredTensor, StoredTensors
from skipstone.exporters.checkpoints.torch_bin import torch_tensors_in

__all__ = ["open_weights"]

# What files of weights by other programs, or parts without their index, end in.
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".h5", ".msgpack", ".gguf")


def open_weights(folder: Path, *, safetensors: str, torch: str) -> StoredTensors:
    """The weights in the file with one of these names, or in those that an index, `<name>.index.json`, lists.

    Raises: CheckpointError when there is none, or a file is damaged.
    """
    present = listing(folder)
    readers = {safetensors: safetensors_in, torch: torch_tensors_in}
    for name, tensors_in in readers.items():
        if name in present:
            return StoredTensors(tensors_in(folder / name))
        if f"{name}.index.json" in present:
            return StoredTensors(_shards(folder / f"{name}.index.json", tensors_in))
    looked_for = ", ".join(f"{name}, {name}.index.json" for name in readers)
    others = sorted(name for name in present if name.endswith(_WEIGHTS))
    found = f", found {', '.join(others[:3])}: save the model with transformers' save_pretrained" if others else ""
    raise CheckpointError(f"{folder} has no weights: looked for {looked_for}{found}")


def _shards(index: Path, tensors_in: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """The tensors that the index lists, each from the file that the index gives for it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: expected a weight_map from tensor names to file names")
    # Asking the folder, not the path, also refuses names that lead out of it.
    missing = sorted(set(weight_map.values()) - listing(index.parent))
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(map(repr, missing))}, which {index.name} lists")
    shards = {shard: tensors_in(index.parent / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{index.name} puts tensor {name!r} into {shard}, which does not hold it")
    return {name: shards[shard][name] for name, shard in weight_map.items()}
