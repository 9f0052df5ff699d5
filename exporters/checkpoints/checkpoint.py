"""A Hugging Face checkpoint, opened and checked before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints import hub
from skipstone.exporters.checkpoints.files import blaming, read_json, reading
from skipstone.exporters.checkpoints.packed import unpacked
from skipstone.exporters.checkpoints.safetensors_file import safetensors_in
from skipstone.exporters.checkpoints.tensors import StoredTensor, StoredTensors, TensorSource
from skipstone.exporters.checkpoints.tokenizer import files as tokenizer_files
from skipstone.exporters.checkpoints.torch_bin import torch_tensors_in

__all__ = ["TEXT_FILES", "Checkpoint"]

# The first that exists is taken; each may also be split into files that "<name>.index.json" lists.
_WEIGHTS: Final[Mapping[str, Callable[[Path], dict[str, StoredTensor]]]] = {
    "model.safetensors": safetensors_in,
    "pytorch_model.bin": torch_tensors_in,
}
TEXT_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template_tool_use.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What Hugging Face ships: a folder with settings, tokenizer and weights.

    `source` is what the user named, `path` is the folder or file that it lies in, `config` is config.json,
    `generation_config` is generation_config.json or empty. `texts` are the files that a bundle takes over, by name:
    TEXT_FILES where the checkpoint has them, tokenizer.json always.
    """

    path: Path
    source: str
    config: dict[str, Any]
    generation_config: dict[str, Any]
    texts: Mapping[str, bytes]
    tensors: TensorSource

    @classmethod
    def open(cls, source: str | Path, *, revision: str | None = None) -> Checkpoint:
        """The checkpoint in a local folder or GGUF file, or fetched from the hub for an id such as "owner/name".

        Checks the settings and the header of every weight file; reads no weight.
        Raises: CheckpointError when something is missing or damaged; ConfigError for a folder with a revision.
        """
        if Path(source).suffix == ".gguf" and not Path(source).is_dir():
            return _open_gguf(Path(source), revision)
        folder = _folder(source, revision)
        present = _listing(folder)
        if "config.json" not in present:
            hint = next((f"the file {folder / name}" for name in sorted(present) if name.endswith(".gguf")), None)
            raise CheckpointError(
                f"{folder} has no config.json: pass {hint or 'the folder of a Hugging Face checkpoint'}"
            )
        generation_config = folder / "generation_config.json"
        config = read_json(folder / "config.json")
        tensors = _open_weights(folder)
        return cls(
            path=folder,
            source=str(source),
            config=config,
            generation_config=read_json(generation_config) if generation_config.name in present else {},
            texts=_read_texts(folder, present),
            tensors=tensors if config.get("quantization_config") is None else unpacked(config, tensors),
        )


def _open_gguf(path: Path, revision: str | None) -> Checkpoint:
    from skipstone.exporters.checkpoints.gguf import open_gguf

    if revision is not None:
        raise ConfigError(f"revision {revision!r} does not apply to the local file {path}: leave it out")
    return open_gguf(path)


def _folder(source: str | Path, revision: str | None) -> Path:
    folder = Path(source)
    with blaming(folder):
        is_folder, exists = folder.is_dir(), folder.exists()
    if is_folder:
        if revision is not None:
            raise ConfigError(f"revision {revision!r} does not apply to the local folder {folder}: leave it out")
        return folder
    if exists:
        raise CheckpointError(f"{folder} is a file: pass the folder that holds config.json and the weights")
    if not hub.is_hub_id(str(source)):
        raise CheckpointError(f"no such folder: {folder}: pass a folder, or a hub id such as owner/name")
    return hub.fetch(str(source), revision)


def _listing(folder: Path) -> frozenset[str]:
    with blaming(folder):
        return frozenset(path.name for path in folder.iterdir())


def _read_texts(folder: Path, present: Collection[str]) -> dict[str, bytes]:
    texts = {}
    for name in TEXT_FILES:
        if name in present:
            with reading(folder / name) as file:
                texts[name] = file.readall()
    tool_template = folder / "additional_chat_templates" / "tool_use.jinja"
    if tool_template.parent.name in present and tool_template.is_file():
        with reading(tool_template) as file:
            texts["chat_template_tool_use.jinja"] = file.readall()
    if "tokenizer.json" not in texts:
        texts["tokenizer.json"] = tokenizer_files.build(folder, read_json(folder / "config.json"))
    return texts


def _open_weights(folder: Path) -> StoredTensors:
    present = _listing(folder)
    for name, tensors_in in _WEIGHTS.items():
        if name in present:
            return StoredTensors(tensors_in(folder / name))
        if f"{name}.index.json" in present:
            return StoredTensors(_shards(folder / f"{name}.index.json", tensors_in))
    looked_for = ", ".join(f"{name}, {name}.index.json" for name in _WEIGHTS)
    raise CheckpointError(f"{folder} has no weights: looked for {looked_for}")


def _shards(index: Path, tensors_in: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """The tensors that the index lists, each from the file that the index gives for it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: expected a weight_map from tensor names to file names")
    # Asking the folder, not the path, also refuses names that lead out of it.
    missing = sorted(set(weight_map.values()) - _listing(index.parent))
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(map(repr, missing))}, which {index.name} lists")
    shards = {shard: tensors_in(index.parent / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{index.name} puts tensor {name!r} into {shard}, which does not hold it")
    return {name: shards[shard][name] for name, shard in weight_map.items()}
