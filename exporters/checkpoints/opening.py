"""Opens a checkpoint: the folder of a Hugging Face model, one GGUF file, or a name on the hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from skipstone.errors import CheckpointError, ConfigError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.file_kinds import file_kind, gguf_in, is_gguf
from skipstone.exporters.checkpoints.files import (
    MOST_TEXT_BYTES,
    blaming,
    listing,
    read_bounded,
    read_json,
    require_inside,
)
from skipstone.exporters.checkpoints.gguf import open_gguf
from skipstone.exporters.checkpoints.hub import fetch, is_hub_id
from skipstone.exporters.checkpoints.packed import open_packed
from skipstone.exporters.checkpoints.tensors import TensorSource
from skipstone.exporters.checkpoints.tokenizer import files as tokenizer_files
from skipstone.exporters.checkpoints.usual_names import with_usual_names
from skipstone.exporters.checkpoints.weight_files import open_weights

__all__ = ["open_checkpoint"]

_TEXT_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template_tool_use.jinja",
    "generation_config.json",
)


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder or GGUF file, or fetched from the hub for an id such as "owner/name".

    Checks the settings and the header of every weight file; reads no weight.
    Raises: CheckpointError when something is missing or damaged; ConfigError for a folder with a revision.
    """
    path = Path(source)
    with blaming(path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and (path.suffix.lower() == ".gguf" or (is_file and is_gguf(path))):
        return _open_gguf(path, revision)
    folder = _folder(source, revision)
    present = listing(folder)
    if "config.json" not in present:
        raise CheckpointError(f"{folder} has no config.json: pass {_hint(folder, present, source)}")
    generation_config = folder / "generation_config.json"
    config = read_json(folder / "config.json")
    tensors, remarks, is_usual = _weights(folder, config)
    return Checkpoint(
        path=folder,
        source=str(source),
        config=config,
        generation_config=read_json(generation_config) if generation_config.name in present else {},
        texts=_read_texts(folder, present),
        tensors=tensors,
        remarks=remarks,
        is_usual=is_usual,
    )


def _weights(folder: Path, config: Mapping[str, Any]) -> tuple[TensorSource, tuple[str, ...], bool]:
    """The tensors by their usual names, what is to be said of them, and whether transformers reads the same."""
    stored = open_weights(folder, safetensors="model.safetensors", torch="pytorch_model.bin")
    tensors, remarks = with_usual_names(stored, config)
    source, said = open_packed(folder, config, tensors)
    return source, (*remarks, *said), source is stored and not said


def _hint(folder: Path, present: Collection[str], source: str | Path) -> str:
    """What to pass in place of a folder that has no settings of a model; for a hub id it is that of the cache."""
    if (file := gguf_in(folder)) is not None:
        return f"the file {file}"
    hint = "the folder of a Hugging Face checkpoint"
    if folder != Path(source):
        return f"{hint}; or, where {source} holds GGUF files, download one and pass it"
    return f"{hint}, and this adapter with --lora" if "adapter_config.json" in present else hint


def _open_gguf(path: Path, revision: str | None) -> Checkpoint:
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
        kind = f" ({known})" if (known := file_kind(folder)) is not None else ""
        raise CheckpointError(f"{folder} is a file: pass the folder that holds config.json and the weights{kind}")
    if not is_hub_id(str(source)):
        raise CheckpointError(f"no such folder: {folder}: pass a folder, or a hub id such as owner/name")
    return fetch(str(source), revision)


def _read_texts(folder: Path, present: Collection[str]) -> dict[str, bytes]:
    texts = {}
    for name in _TEXT_FILES:
        if name in present:
            texts[name] = read_bounded(folder / name, MOST_TEXT_BYTES)
    tool_template = folder / "additional_chat_templates" / "tool_use.jinja"
    if tool_template.parent.name in present and tool_template.is_file():
        require_inside(tool_template.parent)
        texts["chat_template_tool_use.jinja"] = read_bounded(tool_template, MOST_TEXT_BYTES)
    if "tokenizer.json" not in texts:
        texts["tokenizer.json"] = tokenizer_files.build(folder, read_json(folder / "config.json"))
    return texts
